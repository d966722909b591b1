"""What may enter, what it becomes, and what everything else is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_jax.core.errors import ContextLengthError, RequestError
from orca_jax.core.sampling_params import SamplingParams
from orca_jax.engine.door import Door, derived_seed
from orca_jax.testing.tiny_tokenizer import write_tokenizer
from orca_jax.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.from_folder(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def door_of(tokenizer=None, **changes):
    return Door(**{"tokenizer": tokenizer, "vocab_size": 320, "max_model_len": 32, "eos_ids": (0,)} | changes)


def make(door, prompt, arrival=0, **params):
    extra = {k: params.pop(k) for k in ("default_max_tokens", "add_special_tokens") if k in params}
    return door.make(
        prompt, SamplingParams(**params), request_id=f"r{arrival}", arrival=arrival, arrival_time=1.5, **extra
    )


def refusal(door, prompt, **params):
    with pytest.raises(RequestError) as caught:
        make(door, prompt, **params)
    assert len(str(caught.value)) < 400
    return caught.value


def test_every_form_of_a_prompt_gives_the_same_request(tokenizer):
    door = door_of(tokenizer)
    ids = tuple(tokenizer.encode("hello world"))
    text_forms = ["hello world", {"prompt": "hello world"}, {"prompt": "hello world", "prompt_token_ids": list(ids)}]
    for prompt in text_forms:
        request = make(door, prompt)
        assert (request.prompt, request.prompt_token_ids) == ("hello world", ids)
    for prompt in (list(ids), ids, {"prompt_token_ids": list(ids)}, {"prompt_token_ids": list(ids), "prompt": None}):
        request = make(door, prompt)
        assert (request.prompt, request.prompt_token_ids) == (None, ids)
    assert (request.request_id, request.arrival, request.arrival_time) == ("r0", 0, 1.5)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "cannot be empty"),
        ([], "cannot be empty"),
        ({}, "must hold 'prompt'"),
        ({"prompt": None}, "must hold 'prompt'"),
        ({"promt": "a"}, "'promt' is not a parameter of a prompt .did you mean 'prompt'"),
        ({"prompt_embeds": b"x"}, "prompt_embeds is not supported by a prompt"),
        ({"prompt": "a", "multi_modal_data": {}}, "multi_modal_data is not supported"),
        ({"prompt": 5}, "prompt must be a string, got 5"),
        ({"prompt_token_ids": "12"}, "text or a list of token ids, got '12'"),
        (5, "text or a list of token ids, got 5"),
        (None, "text or a list of token ids, got None"),
        ([1, True], "prompt_token_ids must be an integer, got True"),
        ([1, 1.0], "must be an integer"),
        ([[1]], "must be an integer, got a list of 1"),
        ([-1], "token id -1, outside the vocabulary of 320"),
        ([320], "token id 320, outside the vocabulary"),
        ([2**63], "outside the vocabulary"),
        ([10**400], "token id an integer of 1329 bits, outside the vocabulary"),
        ("a\ud800", "unpaired surrogate"),
    ],
)
def test_bad_prompts(tokenizer, prompt, message):
    with pytest.raises(RequestError, match=message):
        make(door_of(tokenizer), prompt, max_tokens=1)


def test_the_context_is_used_to_the_last_token():
    door = door_of()
    assert make(door, [1] * 31, max_tokens=1).params.max_tokens == 1
    assert make(door, [1] * 16, max_tokens=16).params.max_tokens == 16
    error = refusal(door, [1] * 16, max_tokens=17)
    assert isinstance(error, ContextLengthError) and error.parameter == "max_tokens"
    assert str(error).startswith("This model's maximum context length is 32 tokens. However, you requested 17 output")
    assert "for a total of 33 tokens" in str(error)
    for count in (32, 33, 10**6):
        error = refusal(door, [1] * count, max_tokens=1)
        assert isinstance(error, ContextLengthError) and error.parameter == "prompt"
        assert f"maximum context length is 32 tokens. However, your prompt contains {count} input tokens" in str(error)


def test_an_enormous_text_is_refused_without_being_encoded(tokenizer, monkeypatch):
    sizes = []
    real = Tokenizer.encode
    monkeypatch.setattr(Tokenizer, "encode", lambda self, text, *a: sizes.append(len(text)) or real(self, text, *a))
    error = refusal(door_of(tokenizer), "word " * 10**6, max_tokens=1)
    assert "your prompt contains at least 33 input tokens" in str(error)
    assert sum(sizes) < 10_000
    assert "contains 40 input tokens" in str(refusal(door_of(tokenizer), "q" * 40, max_tokens=1))


def test_max_tokens_is_resolved():
    door = door_of()
    assert make(door, [1] * 10, max_tokens=None).params.max_tokens == 22
    assert make(door, [1] * 10, max_tokens=None, default_max_tokens=8).params.max_tokens == 8
    assert make(door, [1] * 10, max_tokens=None, default_max_tokens=256).params.max_tokens == 22
    assert make(door, [1] * 10, max_tokens=None, default_max_tokens=8, min_tokens=9).params.max_tokens == 9
    assert make(door, [1] * 10, max_tokens=5, default_max_tokens=8).params.max_tokens == 5
    assert refusal(door, [1] * 10, max_tokens=None, min_tokens=23).parameter == "min_tokens"


@given(st.integers(1, 31), st.integers(1, 31), st.integers(1, 4), st.integers(1, 8), st.integers(1, 20))
def test_what_enters_fits_the_pool(prompt_len, max_tokens, n, page_size, pages):
    door = door_of(max_total_tokens=pages * page_size, page_size=page_size)
    needed = n * ((prompt_len + max_tokens + page_size - 1) // page_size)
    fits = prompt_len + max_tokens <= 32 and needed <= pages
    if fits:
        assert make(door, [1] * prompt_len, max_tokens=max_tokens, n=n).params.n == n
    else:
        error = refusal(door, [1] * prompt_len, max_tokens=max_tokens, n=n)
        assert error.parameter in ("max_tokens", "n")
        if prompt_len + max_tokens <= 32:
            assert f"reserves {needed} K/V pages" in str(error) and f"this engine holds {pages}" in str(error)


def test_seeds_are_kept_or_derived():
    door = door_of(seed=7)
    assert make(door, [1], seed=5, max_tokens=1).params.seed == 5
    seeds = [make(door, [1], arrival=i, max_tokens=1).params.seed for i in range(100)]
    assert len(set(seeds)) == 100 and all(0 <= seed < 2**63 for seed in seeds)
    assert seeds == [derived_seed(7, i) for i in range(100)] != [derived_seed(8, i) for i in range(100)]
    assert derived_seed(0, 0) == 4724287922460848025  # the same for ever: recorded runs depend on it


def test_stop_ids():
    door = door_of(eos_ids=(0, 9))
    request = make(door, [1], stop_token_ids=[5, 9], max_tokens=1)
    assert (request.stop_ids, request.eos_ids) == ((0, 9, 5), (0, 9))
    request = make(door, [1], stop_token_ids=[5, 9], max_tokens=1, ignore_eos=True)
    assert (request.stop_ids, request.eos_ids) == ((5, 9), ())
    assert refusal(door, [1], stop_token_ids=[320]).parameter == "stop_token_ids"


def test_bad_words_and_what_they_leave(tokenizer):
    door = door_of(tokenizer)
    q = tokenizer.encode("q")[0]
    assert (q,) in make(door, [1], bad_words=["q"], max_tokens=1).bad_words
    assert refusal(door_of(), [1], bad_words=["q"]).parameter == "bad_words"
    assert refusal(door, [1], bad_words=["q"], allowed_token_ids=[q]).parameter == "allowed_token_ids"
    assert refusal(door, [1], min_tokens=1, allowed_token_ids=[0]).parameter == "allowed_token_ids"
    assert make(door, [1], allowed_token_ids=[0]).stop_ids == (0,)


def test_without_a_tokenizer_only_token_ids_enter():
    assert refusal(door_of(), "text").parameter == "prompt"
    assert make(door_of(), [1]).prompt_token_ids == (1,)


def test_more_ends_than_the_device_holds_are_refused_at_the_door():
    door = door_of(vocab_size=5000, eos_ids=range(100))
    error = refusal(door, [1, 2], stop_token_ids=list(range(1000, 2024)), max_tokens=4)
    assert error.parameter == "stop_token_ids" and "1088" in str(error)
