"""What clients receive: text without halves, in the rhythm they asked for, each request ended exactly once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_jax.core.errors import EngineError, RequestError
from orca_jax.core.outputs import Logprob, RequestMetrics
from orca_jax.core.plan import TokenLogprobs
from orca_jax.core.sampling_params import RequestOutputKind, SamplingParams
from orca_jax.engine.door import Door
from orca_jax.engine.output import OutputProcessor
from orca_jax.testing.tiny_tokenizer import write_tokenizer
from orca_jax.text.tokenizer import Tokenizer

DELTA, CUMULATIVE, FINAL_ONLY = (
    RequestOutputKind.DELTA,
    RequestOutputKind.CUMULATIVE,
    RequestOutputKind.FINAL_ONLY,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.from_folder(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def start(tokenizer, prompt="say ", request_id="r", **params):
    """A processor with one request in it."""
    params = {"max_tokens": 64} | params
    door = Door(tokenizer=tokenizer, vocab_size=320, max_model_len=256, eos_ids=(0,))
    request = door.make(prompt, SamplingParams(**params), request_id=request_id, arrival=0, arrival_time=1.0)
    processor = OutputProcessor(tokenizer)
    processor.add(request)
    return processor


def feed(processor, ids, index=0, request_id="r"):
    """Push tokens until a stop string matches; returns how many were pushed and the string."""
    for count, token in enumerate(ids, start=1):
        stop = processor.push(request_id, index, token, None)
        if stop is not None:
            processor.finish(request_id, index, "stop", stop)
            return count, stop
    return len(ids), None


def one(processor):
    (output,) = processor.take()
    (answer,) = output.outputs
    return output, answer


def test_cumulative_outputs_grow_and_the_last_one_is_finished(tokenizer):
    processor = start(tokenizer)
    assert processor.take() == []
    ids = tokenizer.encode("hello")
    for i, token in enumerate(ids):
        processor.push("r", 0, token, None)
        output, answer = one(processor)
        assert answer.token_ids == ids[: i + 1] and answer.text == tokenizer.decode(ids[: i + 1])
        assert not output.finished and not answer.finished()
        assert processor.take() == []
    processor.finish("r", 0, "length")
    output, answer = one(processor)
    assert output.finished and answer.finished() and answer.finish_reason == "length" and answer.stop_reason is None
    assert (output.prompt, output.prompt_token_ids) == ("say ", tokenizer.encode("say "))
    assert output.seed is not None and output.error is None
    assert processor.take() == [] and processor.statistics() == {"requests": 0, "untaken": 0}


@given(st.lists(st.integers(0, 319), max_size=24), st.lists(st.booleans(), min_size=24, max_size=24))
def test_deltas_add_up_to_the_whole(tokenizer, ids, takes):
    whole, parts = start(tokenizer, output_kind=CUMULATIVE), start(tokenizer, output_kind=DELTA)
    text, tokens = "", []
    for token, take in zip(ids, takes, strict=False):
        for processor in (whole, parts):
            processor.push("r", 0, token, None)
        if take:
            _, answer = one(parts)
            text, tokens = text + answer.text, tokens + answer.token_ids
            assert one(whole)[1].text == text
    for processor in (whole, parts):
        processor.finish("r", 0, "length")
    output, answer = one(parts)
    last = one(whole)[1]
    assert output.finished and (text + answer.text, tokens + answer.token_ids) == (last.text, last.token_ids)
    # An end-of-sequence token is no text; everything else is decoded as if at once, after the prompt.
    prompt = tokenizer.encode("say ")
    assert "say " + last.text == tokenizer.decode(prompt + ids) and last.token_ids == ids


def test_final_only_gives_nothing_before_the_end(tokenizer):
    processor = start(tokenizer, output_kind=FINAL_ONLY)
    feed(processor, tokenizer.encode("hello"))
    assert processor.take() == []
    processor.finish("r", 0, "abort")
    output, answer = one(processor)
    assert output.finished and answer.text == "hello" and answer.finish_reason == "abort"


@given(st.integers(1, 3), st.booleans(), st.sampled_from([["STOP"], ["STOP", "xyST"], ["TOPO"], ["nothing"]]))
def test_stop_strings_never_leak(tokenizer, size, include, stops):
    text = "some text xySTOPOver"
    ids = [token for i in range(0, len(text), size) for token in tokenizer.encode(text[i : i + size])]
    processor = start(tokenizer, stop=stops, include_stop_str_in_output=include, output_kind=DELTA)
    shown, stop = "", None
    for token in ids:
        stop = processor.push("r", 0, token, None)
        shown += one(processor)[1].text
        if stop is not None:
            break
    processor.finish("r", 0, "stop" if stop else "length", stop)
    shown += one(processor)[1].text
    found = min((text.find(s) + len(s), s) for s in stops) if stops != ["nothing"] else None
    if found is None:
        assert stop is None and shown == text
    else:
        assert stop == found[1] and shown == text[: found[0] - (0 if include else len(stop))]


def test_text_held_back_is_shown_when_the_answer_ends_otherwise(tokenizer):
    processor = start(tokenizer, stop=["STOP"], output_kind=DELTA)
    feed(processor, tokenizer.encode("go STO"))
    assert one(processor)[1].text == "go "
    processor.finish("r", 0, "length")
    assert one(processor)[1].text == "STO"


def test_what_follows_a_stop_string_in_its_token_is_dropped(tokenizer):
    token = tokenizer.backend.token_to_id("main")
    processor = start(tokenizer, stop=["ma"])
    assert feed(processor, [*tokenizer.encode("in "), token]) == (len(tokenizer.encode("in ")) + 1, "ma")
    output, answer = one(processor)
    assert output.finished and (answer.text, answer.stop_reason) == ("in ", "ma") and answer.token_ids[-1] == token


def test_an_answer_cut_off_by_a_stop_string_gets_no_tail_whatever_ended_it(tokenizer):
    half = tokenizer.encode("é")[0]
    processor = start(tokenizer, stop=["b"])
    for token in tokenizer.encode("ab"):
        processor.push("r", 0, token, None)
    processor.finish("r", 0, "length")
    assert one(processor)[1].text == "a"
    processor = start(tokenizer, stop=["b"])
    feed(processor, [*tokenizer.encode("a"), half])
    processor.finish("r", 0, "length")
    assert one(processor)[1].text == "a\ufffd"


def test_min_tokens_disarm_stop_strings(tokenizer):
    ids = tokenizer.encode("z") * 4
    assert feed(start(tokenizer, stop=["z"], min_tokens=2), ids) == (3, "z")
    processor = start(tokenizer, stop=["zzz"], min_tokens=2)
    assert feed(processor, ids) == (3, "zzz")
    assert one(processor)[1].text == ""


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "hi"),
        ({"include_stop_str_in_output": True}, "hi"),
        ({"include_stop_str_in_output": True, "skip_special_tokens": False}, "hi<|end|>"),
        ({"skip_special_tokens": False}, "hi"),
        ({"ignore_eos": True, "skip_special_tokens": False}, "hi<|end|>"),
        ({"min_tokens": 60, "skip_special_tokens": False}, "hi<|end|>"),
    ],
)
def test_an_end_of_sequence_stays_in_the_tokens_but_not_in_the_text(tokenizer, options, text):
    processor = start(tokenizer, **options)
    ids = [*tokenizer.encode("hi"), 0]
    feed(processor, ids)
    processor.finish("r", 0, "stop")
    answer = one(processor)[1]
    assert answer.token_ids == ids and answer.text == text


def test_an_ordinary_stop_token_is_no_text_unless_wanted(tokenizer):
    (z,) = tokenizer.encode("z")
    for include, text in ((False, "hi"), (True, "hiz")):
        processor = start(tokenizer, stop_token_ids=[z], include_stop_str_in_output=include)
        feed(processor, [*tokenizer.encode("hi"), z])
        processor.finish("r", 0, "stop", z)
        answer = one(processor)[1]
        assert (answer.text, answer.stop_reason) == (text, z)


def test_log_probabilities(tokenizer):
    a, b, c = (tokenizer.encode(x)[0] for x in "abc")
    processor = start(tokenizer, logprobs=2, output_kind=DELTA)
    processor.push("r", 0, a, TokenLogprobs(a, -0.5, 1, ((a, -0.5), (b, -1.0))))
    answer = one(processor)[1]
    assert answer.logprobs == [{a: Logprob(-0.5, 1, "a"), b: Logprob(-1.0, 2, "b")}]
    processor.push("r", 0, c, TokenLogprobs(c, -3.0, 9, ((a, -0.25), (b, -2.0))))
    answer = one(processor)[1]
    assert list(answer.logprobs[0]) == [c, a, b] and answer.logprobs[0][c] == Logprob(-3.0, 9, "c")
    assert answer.cumulative_logprob == -3.5 and len(answer.logprobs) == 1
    assert start(tokenizer, logprobs=0).push("r", 0, a, TokenLogprobs(a, -0.5, 1)) is None


def test_without_logprobs_there_are_none(tokenizer):
    processor = start(tokenizer)
    feed(processor, [5])
    answer = one(processor)[1]
    assert answer.logprobs is None and answer.cumulative_logprob is None


@pytest.mark.parametrize("kind", [CUMULATIVE, DELTA])
def test_prompt_log_probabilities_come_in_chunks(tokenizer, kind):
    processor = start(tokenizer, prompt=[5, 6, 7, 8], n=2, prompt_logprobs=0, output_kind=kind)
    for index in (0, 1):
        processor.push_prompt_logprobs("r", index, [TokenLogprobs(6, -1.0, 2), TokenLogprobs(7, -2.0, 3)])
    for index in (0, 1):
        processor.push_prompt_logprobs("r", index, (TokenLogprobs(8, -3.0, 4),))
    text = tokenizer.token_text
    expected = [None, {6: Logprob(-1.0, 2, text(6))}, {7: Logprob(-2.0, 3, text(7))}, {8: Logprob(-3.0, 4, text(8))}]
    assert processor.take() == []
    processor.push("r", 0, 9, None)
    assert processor.take()[0].prompt_logprobs == expected
    processor.push("r", 1, 9, None)
    assert processor.take()[0].prompt_logprobs == (expected if kind is CUMULATIVE else None)


def test_n_answers_end_one_by_one_and_the_request_once(tokenizer):
    processor = start(tokenizer, n=3)
    for index in (2, 0, 1):
        feed(processor, tokenizer.encode(f"{index}"), index)
    (output,) = processor.take()
    assert [answer.text for answer in output.outputs] == ["0", "1", "2"]
    for index in (1, 0):
        processor.finish("r", index, "length")
        (output,) = processor.take()
        assert not output.finished and output.outputs[index].finished()
    processor.finish("r", 2, "stop")
    processor.finish("r", 2, "length")  # too late to change anything
    (output,) = processor.take()
    assert output.finished and [a.finish_reason for a in output.outputs] == ["length", "length", "stop"]
    processor.finish("r", 2, "length")
    assert processor.take() == []


def test_deltas_of_n_answers_hold_only_those_with_news(tokenizer):
    processor = start(tokenizer, n=3, output_kind=DELTA)
    feed(processor, tokenizer.encode("x"), 2)
    assert [answer.index for answer in processor.take()[0].outputs] == [2]


def test_detokenize_false_and_no_tokenizer_leave_the_text_empty(tokenizer):
    for processor in (start(tokenizer, detokenize=False, logprobs=0), start(None, prompt=[1], logprobs=0)):
        processor.push("r", 0, 70, TokenLogprobs(70, -1.0, 1))
        processor.finish("r", 0, "length")
        answer = one(processor)[1]
        assert answer.text == "" and answer.token_ids == [70] and answer.logprobs == [{70: Logprob(-1.0, 1, None)}]


def test_times(tokenizer):
    processor = start(tokenizer)
    for now in (2.0, 3.0):
        processor.scheduled("r", now)
        processor.push("r", 0, 5, None, now + 0.5)
    early = one(processor)[0].metrics
    processor.finish("r", 0, "length", now=9.0)
    assert one(processor)[0].metrics == RequestMetrics(1.0, 2.0, 2.5, 9.0)
    assert early == RequestMetrics(1.0, 2.0, 2.5, None)


def test_errors_end_a_request_and_say_why(tokenizer):
    processor = start(tokenizer, n=2)
    feed(processor, [5])
    processor.finish("r", 0, "length")
    processor.error("r", "the sampler met NaN")
    processor.error("unknown", "nobody")
    (output,) = processor.take()
    assert output.finished and output.error == "the sampler met NaN"
    assert [answer.finish_reason for answer in output.outputs] == ["length", "error"]


def test_what_is_not_live_is_refused(tokenizer):
    processor = start(tokenizer)
    with pytest.raises(EngineError, match="request 'x' is not live"):
        processor.push("x", 0, 5, None)
    with pytest.raises(RequestError, match="'r' is in use"):
        processor.add(processor._live["r"].request)
    processor.finish("x", 0, "length")
    processor.scheduled("x", 1.0)
    processor.check()
    processor.finish("r", 0, "length")
    processor._touched.clear()
    with pytest.raises(EngineError, match="1 requests lost"):
        processor.check()
