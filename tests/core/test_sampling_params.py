"""The ranges, the error texts and the refusals by name of SamplingParams."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_jax.core.errors import RequestError
from orca_jax.core.sampling_params import UNSUPPORTED, RequestOutputKind, SamplingParams

HUGE = 10**400


def test_defaults_are_those_of_vllm():
    p = SamplingParams()
    assert (p.n, p.temperature, p.top_p, p.top_k, p.min_p, p.max_tokens, p.min_tokens) == (1, 1.0, 1.0, 0, 0.0, 16, 0)
    assert (p.presence_penalty, p.frequency_penalty, p.repetition_penalty) == (0.0, 0.0, 1.0)
    assert p.seed is p.logprobs is p.prompt_logprobs is p.logit_bias is p.allowed_token_ids is None
    assert p.stop == p.stop_token_ids == p.bad_words == ()
    assert p.detokenize and p.skip_special_tokens and p.spaces_between_special_tokens
    assert not p.ignore_eos and not p.include_stop_str_in_output
    assert p.output_kind is RequestOutputKind.CUMULATIVE


@pytest.mark.parametrize(
    ("given_value", "text"),
    [
        ({"n": 0}, "n must be at least 1, got 0."),
        ({"n": 10**9}, "n must be at most 16384"),
        ({"n": True}, "n must be an integer, got True."),
        ({"n": 2, "temperature": 0}, "n must be 1 when using greedy sampling, got 2."),
        ({"presence_penalty": 2.01}, r"presence_penalty must be in \[-2, 2\], got 2.01."),
        ({"frequency_penalty": -2.01}, r"frequency_penalty must be in \[-2, 2\], got -2.01."),
        ({"repetition_penalty": 0}, "repetition_penalty must be greater than zero, got 0."),
        ({"repetition_penalty": -1}, "repetition_penalty must be greater than zero"),
        ({"repetition_penalty": math.inf}, "repetition_penalty must be a finite number"),
        ({"temperature": -0.1}, r"temperature must be in \[0, 2\], got -0.1."),
        ({"temperature": 2.1}, "temperature must be in"),
        ({"temperature": 1e308}, "temperature must be in"),
        ({"temperature": math.nan}, "temperature must be a finite number"),
        ({"temperature": "hot"}, "temperature must be a number, got 'hot'."),
        ({"temperature": None}, "temperature must be a number, got None."),
        ({"temperature": HUGE}, "temperature must be a finite number, got an integer of 1329 bits."),
        ({"top_p": 0}, r"top_p must be in \(0, 1\], got 0."),
        ({"top_p": 1.1}, r"top_p must be in \(0, 1\]"),
        ({"top_k": -2}, r"top_k must be 0 \(disable\), or at least 1, got -2."),
        ({"top_k": 1.0}, "top_k must be an integer"),
        ({"min_p": 1.5}, r"min_p must be in \[0, 1\]"),
        ({"seed": 2**63}, "seed must be at most"),
        ({"seed": "1"}, "seed must be an integer, got '1'."),
        ({"seed": 1.5}, "seed must be an integer"),
        ({"stop": ""}, "stop cannot contain an empty string."),
        ({"stop": [""]}, "stop cannot contain an empty string."),
        ({"stop": [1]}, "stop must hold strings, got 1."),
        ({"stop": 5}, "stop must be a string or a list of them, got 5."),
        ({"stop": ["a"] * 10_000}, "stop must have at most 64 entries, got more."),
        ({"stop": "x" * 10**6}, "stop holds a string of 1000000 characters"),
        ({"stop": "\ud800"}, "unpaired surrogate"),
        ({"stop": "a", "detokenize": False}, "stop strings are only supported when detokenize is True."),
        ({"stop_token_ids": [-1]}, "stop_token_ids must be non-negative"),
        ({"stop_token_ids": [2**31]}, "stop_token_ids must be at most"),
        ({"stop_token_ids": "12"}, "stop_token_ids must be a list"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0."),
        ({"max_tokens": 1.5}, "max_tokens must be an integer"),
        ({"max_tokens": True}, "max_tokens must be an integer"),
        ({"max_tokens": 2**63}, "max_tokens must be at most"),
        ({"min_tokens": 17}, "min_tokens must be less than or equal to max_tokens=16, got 17."),
        ({"min_tokens": -1}, "min_tokens must be non-negative"),
        ({"logprobs": -2}, "logprobs must be non-negative"),
        ({"logprobs": -1}, "logprobs=-1 .the whole vocabulary. is not supported; at most 20"),
        ({"logprobs": 21}, "logprobs must be at most 20, got 21."),
        ({"prompt_logprobs": 10**6}, "prompt_logprobs must be at most 20"),
        ({"logprobs": True}, "logprobs must be an integer"),
        ({"ignore_eos": 1}, "ignore_eos must be True or False, got 1."),
        ({"output_kind": 0}, "output_kind must be one of RequestOutputKind.CUMULATIVE"),
        ({"logit_bias": {"abc": 1.0}}, "each key of logit_bias must be an integer, got 'abc'."),
        ({"logit_bias": {"-1": 1.0}}, "each key of logit_bias must be an integer, got '-1'."),
        ({"logit_bias": {-1: 1.0}}, "logit_bias must be non-negative"),
        ({"logit_bias": {1: math.nan}}, "logit_bias must be a finite number"),
        ({"logit_bias": dict.fromkeys(range(1025), 1.0)}, "logit_bias must have at most 1024 entries, got 1025."),
        ({"logit_bias": [1]}, "logit_bias must map token ids to numbers"),
        ({"allowed_token_ids": []}, "allowed_token_ids is not None and empty!"),
        ({"bad_words": [""]}, "bad_words cannot contain an empty string."),
        ({"bad_words": ["a"] * 129}, "bad_words must have at most 128 entries, got more."),
    ],
)  # fmt: skip
def test_bad_values_are_refused_by_name(given_value, text):
    with pytest.raises(RequestError, match=text) as caught:
        SamplingParams(**given_value)
    assert caught.value.parameter in given_value
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_what_is_not_supported_is_refused_by_name(name):
    with pytest.raises(RequestError, match=f"^{name} is not supported by SamplingParams") as caught:
        SamplingParams(**{name: 1})
    assert caught.value.parameter == name
    assert SamplingParams(**{name: None}) == SamplingParams()  # which asks for nothing


def test_a_typo_is_answered_with_the_nearest_name():
    with pytest.raises(RequestError, match=r"'temprature' is not a parameter.*did you mean 'temperature'") as caught:
        SamplingParams(temprature=0.5)
    assert caught.value.parameter == "temprature"
    with pytest.raises(RequestError) as caught:
        SamplingParams(**{"x" * 10**6: 1})
    assert len(str(caught.value)) < 200


def test_temperature_rules(caplog):
    greedy = SamplingParams(temperature=1e-30, top_p=0.5, top_k=3, min_p=0.1)
    assert greedy.is_greedy and greedy.temperature == 0.0
    assert (greedy.top_p, greedy.top_k, greedy.min_p) == (1.0, 0, 0.0)
    assert not caplog.records
    assert SamplingParams(temperature=1e-3).temperature == 1e-2
    assert "raised to 0.01" in caplog.text
    assert SamplingParams(temperature=1e-2).temperature == 1e-2
    assert len(caplog.records) == 1


def test_values_are_normalised():
    p = SamplingParams(
        stop="END", seed=-1, top_k=-1, logit_bias={"7": 1e9, 3: -1e9}, stop_token_ids=np.array([4, 4, 5]),
        temperature=np.float32(0.5), max_tokens=np.int64(8), bad_words=None, allowed_token_ids=[2, 1, 2],
    )  # fmt: skip
    assert p.stop == ("END",) and p.seed is None and p.top_k == 0
    assert p.logit_bias == {7: 100.0, 3: -100.0}
    assert p.stop_token_ids == (4, 5) and p.allowed_token_ids == (2, 1) and p.bad_words == ()
    assert type(p.max_tokens) is int and type(p.temperature) is float
    assert SamplingParams(max_tokens=None, min_tokens=1000).max_tokens is None


def test_it_is_frozen_hashable_and_replaceable():
    p = SamplingParams(stop=["a"], logit_bias={1: 2.0}, temperature=0.5)
    q = dataclasses.replace(p, max_tokens=3, seed=9)
    assert (q.max_tokens, q.seed, q.stop, q.logit_bias) == (3, 9, ("a",), {1: 2.0})
    assert len({p, q, dataclasses.replace(p)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        p.n = 2
    with pytest.raises(RequestError, match="top_p"):
        dataclasses.replace(p, top_p=3.0)


@pytest.mark.parametrize(
    "bad", [{"stop_token_ids": [10]}, {"logit_bias": {10: 1.0}}, {"allowed_token_ids": [1, 2**31 - 1]}]
)
def test_verify_knows_the_vocabulary(bad):
    params = SamplingParams(**bad)
    params.verify(2**31)
    with pytest.raises(RequestError, match=r"outside the vocabulary of 10 \(0 to 9\)") as caught:
        params.verify(10)
    assert caught.value.parameter in bad


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
FIELDS = [f.name for f in dataclasses.fields(SamplingParams)]


@given(st.dictionaries(st.sampled_from(FIELDS), JSON_VALUES, max_size=4))
def test_any_json_is_accepted_whole_or_refused_with_a_name(values):
    try:
        params = SamplingParams(**values)
    except RequestError as error:
        assert error.parameter in FIELDS
    else:
        assert dataclasses.replace(params) == params
