"""`LLM` over the fake engine: order, forms of prompts, refusals before anything runs, interrupts, freeing."""

import gc
import signal
import threading
import weakref

import pytest

from orca_jax.core.errors import ConfigError, ContextLengthError, EngineError, RequestError
from orca_jax.core.events import IterationLaunched, RequestArrived
from orca_jax.core.sampling_params import RequestOutputKind, SamplingParams
from orca_jax.offline.llm import LLM
from orca_jax.offline.unsupported import METHODS
from orca_jax.testing.fake_engine import build_fake_engine
from orca_jax.text.chat import render


def greedy(max_tokens: int | None = 6, **more) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=max_tokens, seed=7, **more)


def expected(llm: LLM, output) -> list[list[int]]:
    """What the fake model answers to the request that led to `output`."""
    built = llm._built
    answers = []
    for answer in output.outputs:
        request = built.door.make(
            {"prompt_token_ids": output.prompt_token_ids},
            SamplingParams(temperature=1.0, max_tokens=len(answer.token_ids), seed=output.seed, n=len(output.outputs)),
            request_id="x", arrival=0, arrival_time=0.0,
        )  # fmt: skip
        answers.append(built.model.expected(request, answer.index)[0])
    return answers


def tokens_of(output) -> list[list[int]]:
    return [answer.token_ids for answer in output.outputs]


def test_outputs_come_in_the_order_of_the_prompts_whatever_their_lengths(llm):
    prompts = [f"def f{number}(" * (number % 3 + 1) for number in range(9)]
    params = [greedy(max_tokens=9 - number) for number in range(9)]
    outputs = llm.generate(prompts, params, use_tqdm=False)
    assert [output.prompt for output in outputs] == prompts
    assert [len(output.outputs[0].token_ids) for output in outputs] == list(range(9, 0, -1))
    for output in outputs:
        assert output.finished and output.outputs[0].finish_reason == "length"
        assert tokens_of(output) == expected(llm, output)
        assert output.outputs[0].text == llm.get_tokenizer().decode(output.outputs[0].token_ids)


def test_every_form_of_a_prompt_gives_the_same_answer(llm):
    text = "for i in range"
    ids = llm.get_tokenizer().encode(text)
    forms = [text, {"prompt": text}, {"prompt_token_ids": ids}, ids]
    answers = [llm.generate(form, greedy(), use_tqdm=False)[0].outputs[0].token_ids for form in forms]
    answers += [output.outputs[0].token_ids for output in llm.generate(forms, greedy(), use_tqdm=False)]
    assert len(answers) == 8 and all(answer == answers[0] for answer in answers)


def test_several_answers_for_one_prompt(llm):
    (output,) = llm.generate("print(", SamplingParams(n=3, max_tokens=5), use_tqdm=False)
    assert [answer.index for answer in output.outputs] == [0, 1, 2]
    assert tokens_of(output) == expected(llm, output)
    assert len({tuple(answer) for answer in tokens_of(output)}) == 3


def test_without_parameters_the_defaults_hold(llm):
    (output,) = llm.generate("print(", use_tqdm=False)
    assert len(output.outputs[0].token_ids) == llm.get_default_sampling_params().max_tokens == 16


def test_no_prompts_no_outputs(llm):
    assert llm.generate([], use_tqdm=False) == []


@pytest.mark.parametrize(
    ("prompts", "params", "message"),
    [
        (["good", ""], None, "prompt 1 of 2 .*empty"),
        (["good", {"prompt_token_ids": [10**6]}], None, "prompt 1 of 2 .*vocabulary"),
        (["good", {"prompt_embeds": [0.5]}], None, "prompt_embeds is not supported"),
        (["good", "bad"], [greedy()], "sampling_params has 1 entries for 2 prompts"),
        (["good", "bad"], [greedy(), 5], "sampling_params must hold SamplingParams, got 5"),
        (["good"], {"max_tokens": 5}, "sampling_params must be SamplingParams"),
        (5, None, "prompts must be"),
        (["good", 5], None, "prompt 1 of 2"),
        ("good", greedy(max_tokens=64), "maximum context length is 64"),
    ],
)
def test_a_bad_prompt_is_refused_before_anything_runs(make_llm, prompts, params, message):
    launched = []
    llm = make_llm(observers=(launched.append,))
    with pytest.raises(RequestError, match=message):
        llm.generate(prompts, params, use_tqdm=False)
    assert launched == [] and not llm.has_unfinished
    assert llm.generate("good", greedy(), use_tqdm=False)[0].request_id == "0"


def test_the_kind_of_a_refusal_survives_the_number_of_the_prompt(llm):
    with pytest.raises(ContextLengthError, match="prompt 1 of 2") as caught:
        llm.generate(["good", "bad"], [greedy(), greedy(64)], use_tqdm=False)
    assert caught.value.parameter == "max_tokens"


@pytest.mark.parametrize("argument", ["lora_request", "priority", "tokenization_kwargs", "prompt_token_ids"])
def test_arguments_of_others_are_refused_by_name(llm, argument):
    with pytest.raises(RequestError, match=argument):
        llm.generate("good", **{argument: [1]})
    assert llm.generate("good", greedy(), use_tqdm=False, **{argument: None})


def test_an_unknown_argument_is_refused_by_name(llm):
    with pytest.raises(RequestError, match=r"'temprature' is not a parameter of LLM\.generate"):
        llm.generate("good", temprature=1)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_methods_of_others_are_refused_by_name(llm, name):
    with pytest.raises(AttributeError, match=rf"LLM\.{name} is not supported: ."):
        getattr(llm, name)


def test_settings_are_refused_before_anything_is_loaded():
    with pytest.raises(ConfigError, match="tensor_parallel_size is not supported"):
        LLM("nowhere", tensor_parallel_size=2)


def test_stream_yields_what_is_new(llm):
    whole = llm.generate(["abc", "xyz"], [greedy(9), greedy(4)], use_tqdm=False)
    texts, tokens, ends = {}, {}, []
    for delta in llm.stream(["abc", "xyz"], [greedy(9), greedy(4)]):
        texts[delta.prompt] = texts.get(delta.prompt, "") + delta.outputs[0].text
        tokens[delta.prompt] = tokens.get(delta.prompt, []) + delta.outputs[0].token_ids
        ends += [delta.prompt] if delta.finished else []
    assert texts == {output.prompt: output.outputs[0].text for output in whole}
    assert tokens == {output.prompt: output.outputs[0].token_ids for output in whole}
    assert ends == ["xyz", "abc"]


def test_leaving_a_stream_ends_its_requests(llm):
    stream = llm.stream(["abc", "xyz"], greedy(50))
    next(stream)
    stream.close()
    assert not llm._built.engine.has_unfinished
    llm._built.engine.check()


def test_a_stream_that_is_never_read_leaves_nothing_behind(llm):
    stream = llm.stream("abc", greedy(50))
    del stream
    gc.collect()
    assert not llm._built.engine.has_unfinished
    with pytest.raises(RequestError, match="empty"):  # refused at once all the same
        llm.stream("")


def test_a_stream_keeps_its_engine_alive(make_llm, tokenizer_folder):
    whole = make_llm().generate("abc", greedy(9), use_tqdm=False)[0].outputs[0].token_ids
    deltas = LLM.over(build_fake_engine(tokenizer_folder)).stream("abc", greedy(9))
    gc.collect()
    assert [token for delta in deltas for token in delta.outputs[0].token_ids] == whole


def test_generating_within_a_stream_gives_each_its_own(llm):
    alone = llm.generate("abc", greedy(8), use_tqdm=False)[0].outputs[0].token_ids
    streamed = []
    for delta in llm.stream("abc", greedy(8)):
        streamed += delta.outputs[0].token_ids
        (other,) = llm.generate("xyz", greedy(3), use_tqdm=False)
        assert other.prompt == "xyz" and tokens_of(other) == expected(llm, other)
    assert streamed == alone


def test_requests_may_arrive_between_steps(make_llm):
    launched = []
    llm = make_llm(observers=(lambda event: launched.append(event) if isinstance(event, IterationLaunched) else None,))
    (first,) = llm.enqueue("abc", greedy(12))
    seen = []
    for _ in range(4):
        seen += llm.step()
    (second,) = llm.enqueue("xyz", greedy(3, output_kind=RequestOutputKind.FINAL_ONLY))
    while llm.has_unfinished:
        seen += llm.step()
    assert {row.request_id for event in launched[:4] for row in event.rows} == {first}
    assert any({row.request_id for row in event.rows} == {first, second} for event in launched)
    assert [output.request_id for output in seen].count(second) == 1
    assert [output.request_id for output in seen if output.finished] == [second, first]
    assert llm.wait_for_completion(use_tqdm=False) == []


def test_enqueued_requests_can_be_aborted(llm):
    first, second = llm.enqueue(["abc", "xyz"], greedy(30))
    llm.step()
    llm.abort([first, "unknown"])
    (output,) = llm.wait_for_completion(use_tqdm=False)
    assert output.request_id == second and tokens_of(output) == expected(llm, output)
    llm._built.engine.check()


def test_default_max_tokens_bounds_what_has_no_bound(llm):
    llm.enqueue(["abc", "abc"], [greedy(None), greedy(5)], default_max_tokens=7)
    lengths = [len(output.outputs[0].token_ids) for output in llm.wait_for_completion(use_tqdm=False)]
    assert lengths == [7, 5]


def test_several_threads_share_one_engine(llm):
    results = {}

    def work(name: str) -> None:
        results[name] = llm.generate([name + "x" * n for n in range(4)], greedy(7), use_tqdm=False)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for name, outputs in results.items():
        assert [output.prompt for output in outputs] == [name + "x" * n for n in range(4)]
        assert all(tokens_of(output) == expected(llm, output) for output in outputs)
    assert len(results) == 3


def test_ctrl_c_ends_the_requests_and_leaves_the_engine_usable(make_llm):
    presses = []

    def press(event) -> None:
        """In the middle of an iteration, where an exception would break the engine."""
        if isinstance(event, IterationLaunched) and event.iteration == 3:
            presses.append(event)
            signal.raise_signal(signal.SIGINT)

    llm = make_llm(observers=(press,))
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["abc", "xyz"], greedy(40), use_tqdm=False)
    assert len(presses) == 1 and not llm._built.engine.has_unfinished
    llm._built.engine.check()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    (output,) = llm.generate("abc", greedy(), use_tqdm=False)
    assert tokens_of(output) == expected(llm, output)


def test_a_second_ctrl_c_does_not_wait(make_llm):
    pressed = []

    def press(event) -> None:
        if isinstance(event, IterationLaunched):
            for time in ("first", "second"):
                pressed.append(time)
                signal.raise_signal(signal.SIGINT)
            pressed.append("not reached")

    llm = make_llm(observers=(press,))
    with pytest.raises(KeyboardInterrupt):
        llm.generate("abc", greedy(), use_tqdm=False)
    assert pressed == ["first", "second"]


def test_ctrl_c_while_requests_are_handed_over_leaves_none_behind(make_llm):
    def press(event) -> None:
        if isinstance(event, RequestArrived) and event.request_id == "1":
            signal.raise_signal(signal.SIGINT)

    llm = make_llm(observers=(press,))
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["abc", "xyz", "uvw"], greedy(), use_tqdm=False)
    assert not llm._built.engine.has_unfinished


def test_a_bar_that_cannot_be_drawn_leaves_no_request_behind(llm, monkeypatch):
    def fail(*args) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("orca_jax.offline.progress._bar", fail)
    with pytest.raises(KeyboardInterrupt):
        llm.generate("abc", greedy())
    assert not llm._built.engine.has_unfinished


def test_an_interrupted_wait_keeps_what_has_ended(make_llm):
    def press(event) -> None:
        if isinstance(event, IterationLaunched) and event.iteration == 9:
            signal.raise_signal(signal.SIGINT)

    llm = make_llm(observers=(press,))
    short, _ = llm.enqueue(["abc", "xyz"], [greedy(2), greedy(40)])
    with pytest.raises(KeyboardInterrupt):
        llm.wait_for_completion(use_tqdm=False)
    assert [output.request_id for output in llm.wait_for_completion(use_tqdm=False)] == [short]


def test_closing_waits_for_the_iteration_of_another_thread(llm, monkeypatch):
    executor, closer, waits = llm._built.engine.executor, threading.Thread(target=llm.close), []
    launch = executor.launch

    def launch_while_closing(plan, masks=None) -> None:
        if not waits:
            closer.start()
            closer.join(timeout=0.5)
            waits.append(closer.is_alive())
        launch(plan, masks)

    monkeypatch.setattr(executor, "launch", launch_while_closing)
    (output,) = llm.generate("abc", greedy(40), use_tqdm=False)
    closer.join(timeout=60)
    assert waits == [True] and executor._closed
    assert output.outputs[0].finish_reason in ("abort", "length")


def test_a_failed_engine_is_one_error(llm, monkeypatch):
    def fail(plan, masks=None) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(llm._built.engine.executor, "launch", fail)
    for _ in range(2):
        with pytest.raises(EngineError, match="out of memory"):
            llm.generate(["abc", "xyz"], greedy(), use_tqdm=False)


def test_closing_frees_and_is_idempotent(llm):
    assert llm.statistics()["iterations"] == 0
    with llm:
        llm.generate("abc", greedy(), use_tqdm=False)
    llm.close()
    with pytest.raises(EngineError, match="closed"):
        llm.generate("abc", greedy(), use_tqdm=False)


def test_a_stream_that_is_collected_within_an_iteration_ends_after_it(tokenizer_folder):
    built = build_fake_engine(tokenizer_folder)
    llm = LLM.over(built)
    streams = {"dropped": llm.stream("abc", greedy(30))}
    next(streams["dropped"])
    collect, live = built.engine.executor.collect, []

    def collect_garbage():  # what the garbage collector may do at any time, between any two instructions of the loop
        streams.clear()
        live.append(built.engine.scheduler.pool.num_requests)
        return collect()

    built.engine.executor.collect = collect_garbage
    (output,) = llm.generate("xyz", greedy(8), use_tqdm=False)
    assert tokens_of(output) == expected(llm, output)
    assert live[:2] == [2, 1]
    assert built.engine.scheduler.pool.num_requests == 0 and built.engine.scheduler.kv.pages_reserved == 0


def test_a_collected_llm_frees_its_engine(tokenizer_folder):
    built = build_fake_engine(tokenizer_folder)
    closed = []
    weakref.finalize(built.engine.executor, closed.append, "collected")
    llm = LLM.over(built)
    llm.generate("abc", greedy(), use_tqdm=False)
    executor, engine = built.engine.executor, built.engine
    del llm, built
    gc.collect()
    assert executor._closed and engine._closed and not closed


def test_without_a_tokenizer_there_are_only_token_ids(make_llm):
    llm = make_llm(skip_tokenizer_init=True)
    (output,) = llm.generate([5, 6, 7], greedy(4), use_tqdm=False)
    assert output.prompt is None and output.outputs[0].text == "" and tokens_of(output) == expected(llm, output)
    with pytest.raises(RequestError, match="skip_tokenizer_init"):
        llm.get_tokenizer()


def test_the_bar_counts_requests_and_tokens(llm, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    llm.generate(["abc", "xyz"], greedy(5))
    shown = capsys.readouterr().err
    assert "generating: 100%" in shown and "2/2" in shown and "tokens/s" in shown
    llm.generate("abc", greedy(5), use_tqdm=False)
    assert capsys.readouterr().err == ""


def test_a_pipe_sees_no_bar(llm, capsys):
    llm.generate("abc", greedy(5))
    assert capsys.readouterr().err == ""


HELLO = [{"role": "user", "content": "hello"}]


def test_chat_answers_the_rendered_conversation(llm):
    (output,) = llm.chat(HELLO, greedy(5), use_tqdm=False)
    assert output.prompt == render(llm.get_tokenizer(), HELLO) and output.prompt.endswith("<|assistant|>")
    assert output.prompt_token_ids == llm.get_tokenizer().encode(output.prompt, add_special_tokens=False)
    assert tokens_of(output) == expected(llm, output)
    assert len(llm.chat([HELLO, HELLO], greedy(5), use_tqdm=False)) == 2


def test_chat_takes_a_template_and_its_variables(llm):
    (output,) = llm.chat(
        HELLO, greedy(3), use_tqdm=False, chat_template="{{ mood }}: {{ messages[0]['content'] }}",
        chat_template_kwargs={"mood": "calm"},
    )  # fmt: skip
    assert output.prompt == "calm: hello"


def test_chat_can_continue_an_answer(llm):
    messages = [*HELLO, {"role": "assistant", "content": "well, he"}]
    (output,) = llm.chat(messages, greedy(3), use_tqdm=False, add_generation_prompt=False, continue_final_message=True)
    assert output.prompt.endswith("<|assistant|>well, he")


@pytest.mark.parametrize("params", [None, SamplingParams(max_tokens=None)])
def test_a_chat_without_max_tokens_gets_the_engine_s_default(make_llm, params):
    llm = make_llm(default_max_tokens=9)
    (output,) = llm.chat(HELLO, params, use_tqdm=False)
    assert len(output.outputs[0].token_ids) == 9


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "at least one"),
        ("hello", "messages must be a list"),
        ([{"role": "user"}], "content"),
        ([HELLO, [{"role": "wizard", "content": "x"}]], "conversation 1 of 2 .*wizard"),
    ],
)
def test_a_bad_conversation_is_refused_before_anything_runs(llm, messages, message):
    with pytest.raises(RequestError, match=message):
        llm.chat(messages, greedy(), use_tqdm=False)
    assert llm.statistics()["iterations"] == 0


def test_chat_refuses_what_it_lacks_by_name(llm):
    with pytest.raises(RequestError, match="tools is not supported"):
        llm.chat(HELLO, tools=[{}])


def test_chat_streams(llm):
    whole = llm.chat(HELLO, greedy(6), use_tqdm=False)[0].outputs[0].text
    assert "".join(delta.outputs[0].text for delta in llm.stream_chat(HELLO, greedy(6))) == whole


def test_an_engine_may_allow_fewer_log_probabilities(make_llm):
    llm = make_llm(max_logprobs=2)
    for name in ("logprobs", "prompt_logprobs"):
        with pytest.raises(RequestError, match=f"{name} must be at most 2 on this engine"):
            llm.generate("abc", greedy(**{name: 3}), use_tqdm=False)
    (output,) = llm.generate("abc", greedy(2, logprobs=2), use_tqdm=False)
    assert len(output.outputs[0].logprobs) == 2


def test_waiting_returns_what_stepping_has_not(llm):
    first, second, third = llm.enqueue(["abc", "xyz", "uvw"], [greedy(20), greedy(2), greedy(20)])
    stepped = []
    while not any(output.finished for output in stepped):
        stepped += llm.step()
    assert [output.request_id for output in stepped if output.finished] == [second]
    assert [output.request_id for output in llm.wait_for_completion(use_tqdm=False)] == [first, third]
    assert len(llm._enqueued) == 0
