"""Answers in a given form, from the door to the device and back, from a model whose weights are random."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orca_jax import LLM, RequestError, SamplingParams, StructuredOutputsParams
from orca_jax.core.events import IterationLaunched
from orca_jax.testing.tiny_tokenizer import write_tokenizer

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 350, "hidden_size": 32,
    "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
    "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
    "eos_token_id": 0, "tie_word_embeddings": True, "torch_dtype": "float32",
}  # fmt: skip
SETTINGS = {"load_format": "dummy", "max_num_seqs": 4, "compilation_cache_dir": None, "use_tqdm_on_load": False}
SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["name", "on"],
    "properties": {"name": {"type": "string", "maxLength": 4}, "on": {"type": "boolean"}},
}  # fmt: skip
FORMS = {
    "json": {"json": SCHEMA},
    "regex": {"regex": "[a-f]{3}(-[0-9]{2}){2}"},
    "choice": {"choice": ["yes", "no", "perhaps"]},
    "grammar": {"grammar": 'start: "f(" n ("," n)~0..3 ")"\nn: /[0-9]{1,2}/'},
}
FIRST = {  # each beginning of an answer, spelled out by hand
    "regex": "(?:[a-f](?:[a-f](?:[a-f](?:-(?:[0-9](?:[0-9](?:-(?:[0-9](?:[0-9])?)?)?)?)?)?)?)?)?",
    "choice": "|".join(word[:i] for word in ("yes", "no", "perhaps") for i in range(len(word) + 1)),
    "grammar": r"(?:f(?:\((?:[0-9]{1,2},){0,3}(?:[0-9]{1,2}\)?)?)?)?",
    "json": r'(?:\{(?:"(?:n(?:a(?:m(?:e(?:"(?::.*)?)?)?)?)?)?)?)?',
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tokenizer(tmp_path_factory.mktemp("model"))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture(scope="module")
def launched() -> list[IterationLaunched]:
    return []


@pytest.fixture(scope="module")
def llm(folder, launched):
    with LLM(folder, max_num_batched_tokens=4, observers=[
        lambda event: launched.append(event) if isinstance(event, IterationLaunched) else None
    ], **SETTINGS) as llm:  # fmt: skip
        yield llm
        assert llm.statistics()["compiles_after_warm_up"] == 0
        assert llm.statistics()["pages_reserved"] == 0


@pytest.fixture(scope="module")
def pinned(folder):
    with LLM(folder, deterministic=True, **SETTINGS) as llm:
        yield llm
        assert llm.statistics()["compiles_after_warm_up"] == 0


def params(form, **others) -> SamplingParams:
    held = None if form is None else StructuredOutputsParams(**FORMS[form])
    return SamplingParams(**{"temperature": 1.0, "max_tokens": 60, "structured_outputs": held, **others})


def answer(llm, params, prompt="def f"):
    (output,) = llm.generate(prompt, params, use_tqdm=False)
    return output


def check(form, text, reason):
    if reason == "length":
        assert re.fullmatch(FIRST[form], text, re.DOTALL)
        return
    assert reason == "stop"
    if form == "json":
        value = json.loads(text)
        assert set(value) == {"name", "on"} and len(value["name"]) <= 4 and isinstance(value["on"], bool)
    elif form == "choice":
        assert text in FORMS["choice"]["choice"]
    else:
        assert re.fullmatch({"regex": FORMS["regex"]["regex"], "grammar": r"f\(\d{1,2}(,\d{1,2}){0,3}\)"}[form], text)


@given(
    st.lists(
        st.tuples(st.sampled_from([*FORMS, None]), st.integers(1, 40), st.integers(0, 999)), min_size=1, max_size=6
    )
)
@settings(max_examples=15)
def test_every_answer_has_its_form_in_any_company(llm, asked):
    each = [params(form, max_tokens=most, seed=seed) for form, most, seed in asked]
    outputs = llm.generate(["def f(x):", "for i", "x"] * 2, each + [params(None)] * (6 - len(each)), use_tqdm=False)
    for (form, most, _), output in zip(asked, outputs, strict=False):
        assert output.error is None and len(output.outputs[0].token_ids) <= most
        if form is not None:
            check(form, output.outputs[0].text, output.outputs[0].finish_reason)


@given(st.lists(st.sampled_from([*FORMS, None]), min_size=3, max_size=6), st.integers(0, 99), st.data())
@settings(max_examples=8)
def test_in_deterministic_mode_the_company_decides_nothing(pinned, forms, seed, data):
    each = [params(form, seed=seed + i, logprobs=2, max_tokens=20) for i, form in enumerate(forms)]
    prompts = ["def f(x):", "for i in range(10): print(i)", "x"] * 2
    together = pinned.generate(prompts[: len(each)], each, use_tqdm=False)
    one = data.draw(st.integers(0, len(each) - 1))
    (alone,) = pinned.generate(prompts[one], each[one], use_tqdm=False)
    assert together[one].outputs == [alone.outputs[0]]  # text, tokens and log-probabilities, compared with ==


def test_neighbours_keep_their_look_ahead(llm, launched):
    launched.clear()
    free = params(None, max_tokens=30, ignore_eos=True)
    llm.generate(["a", "b"], [params("regex", max_tokens=8), free], use_tqdm=False)
    rows = [sorted(int(row.request_id) for row in event.rows) for event in launched]
    held, neighbour = rows[0]
    assert [neighbour in ids for ids in rows] == [True] * 30
    assert [i for i, ids in enumerate(rows) if held in ids] == list(range(0, 16, 2))


def test_n_answers_each_have_the_form(llm):
    outputs = answer(llm, params("regex", n=4, seed=5)).outputs
    assert len({output.text for output in outputs}) > 1
    for output in outputs:
        check("regex", output.text, output.finish_reason)


def test_the_answer_ends_with_its_form_even_at_its_last_token(llm):
    whole = answer(llm, params("choice", temperature=0.0))
    count = len(whole.outputs[0].token_ids)
    exact = answer(llm, params("choice", temperature=0.0, max_tokens=count)).outputs[0]
    assert (exact.text, exact.finish_reason) == (whole.outputs[0].text, "stop")
    short = answer(llm, params("choice", temperature=0.0, max_tokens=1)).outputs[0]
    assert short.finish_reason == ("length" if count > 1 else "stop")


def test_stop_strings_cut_the_form_short_and_say_so(llm):
    output = answer(llm, params("json", stop='"on"')).outputs[0]
    assert output.finish_reason == "stop" and output.stop_reason == '"on"'
    assert re.fullmatch(r'\{"name":".*",', output.text, re.DOTALL)


def test_min_tokens_put_the_end_off_but_not_beyond_the_form(llm):
    held = {"structured_outputs": {"regex": "[a-f]*"}, "seed": 1}
    long = answer(llm, params(None, **held, min_tokens=30)).outputs[0]
    assert len(long.token_ids) >= 30 and re.fullmatch("[a-f]*", long.text)
    short = answer(llm, params("choice", min_tokens=50)).outputs[0]
    check("choice", short.text, short.finish_reason)


def test_ignoring_the_end_goes_on_as_far_as_the_form_allows(llm):
    endless = answer(llm, params(None, structured_outputs={"regex": "[a-f]*"}, ignore_eos=True)).outputs[0]
    assert endless.finish_reason == "length" and re.fullmatch("[a-f]+", endless.text)
    check("json", (output := answer(llm, params("json", ignore_eos=True)).outputs[0]).text, output.finish_reason)


def test_other_constraints_choose_within_the_form(llm):
    letters = {x: llm.get_tokenizer().encode(x)[0] for x in "abcdef"}
    held = {"structured_outputs": {"regex": "[a-f]{3}"}, "max_tokens": 9}
    allowed = answer(llm, params(None, **held, allowed_token_ids=[letters["c"], 0, 99])).outputs[0]
    assert (allowed.text, allowed.finish_reason) == ("ccc", "stop")
    assert answer(llm, params(None, **held, logit_bias={letters["e"]: 100, 99: 100})).outputs[0].text == "eee"
    assert "a" not in answer(llm, params(None, **held, bad_words=["a"], temperature=2.0)).outputs[0].text
    with pytest.raises(RequestError, match="leave no token to begin with"):
        answer(llm, params(None, **held, allowed_token_ids=[99]))
    late = answer(llm, params(None, structured_outputs={"regex": "ca"}, allowed_token_ids=[letters["c"]]))
    assert (late.outputs[0].text, late.outputs[0].finish_reason) == ("c", "error")
    assert late.error_parameter == "structured_outputs" and "have left no token to go on with" in late.error
    check("json", answer(llm, params("json")).outputs[0].text, "stop")  # and the engine goes on


def test_log_probabilities_are_the_model_s_own(llm):
    output = answer(llm, params("choice", temperature=0.0, logprobs=3)).outputs[0]
    for token, entry in zip(output.token_ids, output.logprobs, strict=True):
        assert next(iter(entry)) == token and entry[token].logprob < 0
        assert {e.rank for e in entry.values()} >= {1, 2, 3}


def test_where_there_are_no_programs_or_no_tokenizer_a_form_is_refused(folder):
    for setting, text in (
        ("skip_tokenizer_init", "need a tokenizer"),
        ("structured_outputs", "structured_outputs=False"),
    ):
        with LLM(folder, max_num_batched_tokens=4, **{setting: setting == "skip_tokenizer_init"}, **SETTINGS) as llm:
            assert llm.info.grammar_buckets == () and llm.statistics()["programs"] == 3
            with pytest.raises(RequestError, match=text) as caught:
                llm.generate({"prompt_token_ids": [1]}, params("json"), use_tqdm=False)
            assert caught.value.parameter == "structured_outputs"
