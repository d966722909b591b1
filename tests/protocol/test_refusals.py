"""Every bad body gets one line that names the field; nothing is ignored silently."""

import time

import pytest

from orca_jax.core.errors import ContextLengthError, RequestError
from orca_jax.protocol.call import Numbering
from orca_jax.protocol.calls import parse_call
from orca_jax.protocol.errors import api_error, error_object
from orca_jax.protocol.json_text import read_json

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]
BIG = 10**400
TOOLS = [{"type": "function", "function": {"name": "f"}}]

BAD_COMPLETIONS = [
    ({"prompt": None}, "prompt"), ({"prompt": ""}, "prompt"), ({"prompt": []}, "prompt"), ({"prompt": [[]]}, "prompt"),
    ({"prompt": [""]}, "prompt"), ({"prompt": [-1]}, "prompt"), ({"prompt": [320]}, "prompt"),
    ({"prompt": [2**31]}, "prompt"), ({"prompt": [2**63]}, "prompt"), ({"prompt": [BIG]}, "prompt"),
    ({"prompt": ["a", 3]}, "prompt"), ({"prompt": ["a"] * 100_000}, "prompt"), ({"prompt": {"a": 1}}, "prompt"),
    ({"prompt": [1.5]}, "prompt"), ({"prompt": "a" * 10**6}, "prompt"), ({"model": 5}, "model"),
    *(({"max_tokens": value}, "max_tokens") for value in (0, -1, 1.5, "5", True, 2**63, 1e308, 64)),
    ({"min_tokens": 9, "max_tokens": 3}, "min_tokens"), ({"min_tokens": -1}, "min_tokens"),
    *(({"temperature": value}, "temperature") for value in (-0.1, 2.1, 1e308, "hot", [1])),
    ({"presence_penalty": 2.01}, "presence_penalty"), ({"frequency_penalty": -2.01}, "frequency_penalty"),
    *(({"repetition_penalty": value}, "repetition_penalty") for value in (0, -1)),
    *(({"n": value}, "n") for value in (0, -1, 10**9, 1.0, "2")), ({"n": 2, "temperature": 0}, "n"),
    ({"n": 128, "max_tokens": 60}, "n"),
    ({"best_of": 2}, "best_of"), ({"best_of": 1, "n": 2, "temperature": 0}, "n"),
    *(({"seed": value}, "seed") for value in (2**63, 2**64, "1", 1.5)),
    *(({"stop": value}, "stop") for value in ("", [""], ["a"] * 5, ["a"] * 10_000, "a" * 10**6, [1], 3)),
    *(({"logit_bias": value}, "logit_bias")
      for value in ({"abc": 1}, {"-1": 1}, {"320": 1}, {str(i): 1 for i in range(300_000)}, [1], {"1": "x"})),
    *(({"logprobs": value}, "logprobs") for value in (-2, 10**6, True, 21, "1")),
    ({"max_tokens": 0, "echo": True, "stream": True}, "max_tokens"),
    ({"echo": True, "logprobs": 1, "stream": True}, "echo"),
    ({"stream": "yes"}, "stream"), ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": 5}, "stream_options"),
    ({"stream": True, "stream_options": {"inclde_usage": True}}, "stream_options.inclde_usage"),
    ({"stream": True, "prompt_logprobs": 1}, "prompt_logprobs"),
    ({"guided_json": {}}, "guided_json"), ({"temprature": 1}, "temprature"), ({"temprature": None}, "temprature"),
    ({"store": True}, "store"), ({"metadata": {"a": "b"}}, "metadata"), ({"user": "u" * 10**6}, "user"),
    ({"priority": 10**30}, "priority"), ({"priority": "high"}, "priority"), ({"priority": 1}, "priority"),
    ({"prompt_embeds": "gASV"}, "prompt_embeds"), ({"use_beam_search": True}, "use_beam_search"),
    ({"length_penalty": 2.0}, "length_penalty"), ({"cache_salt": "x"}, "cache_salt"), ({"suffix": "x"}, "suffix"),
    ({"prompt": [[1] * 60] * 900, "prompt_logprobs": 20, "max_tokens": 1}, "prompt_logprobs"),
    ({"prompt": [[1] * 60] * 900, "logprobs": 20, "echo": True, "max_tokens": 1}, "logprobs"),
    ({"messages": HELLO}, "messages"), ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    ({"truncate_prompt_tokens": 64}, "truncate_prompt_tokens"), ({"request_id": "a\nb"}, "request_id"),
    ({"request_id": "x" * 129}, "request_id"), ({"request_id": ""}, "request_id"),
    ({"request_id": "a "}, "request_id"), ({"bad_words": [""]}, "bad_words"),
    ({"allowed_token_ids": []}, "allowed_token_ids"), ({"stop_token_ids": [999]}, "stop_token_ids"),
    ({"structured_outputs": {"choice": ["hello"]}, "allowed_token_ids": [300]}, "structured_outputs"),
    ({"response_format": {"type": "json_object"}, "bad_words": ["{"]}, "response_format"),
]  # fmt: skip

BAD_CHATS = [
    ({"messages": None}, "messages"), ({"messages": []}, "messages"), ({"messages": {}}, "messages"),
    ({"messages": [{"role": "nobody", "content": "x"}]}, "messages"), ({"messages": [{"role": "user"}]}, "messages"),
    ({"messages": ["hello"]}, "messages[0]"), ({"prompt": "x"}, "prompt"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]},
     "messages"),
    ({"top_logprobs": 2}, "top_logprobs"), ({"logprobs": True, "top_logprobs": 21}, "logprobs"),
    ({"logprobs": 3}, "logprobs"), ({"logprobs": True, "top_logprobs": -1}, "logprobs"),
    ({"add_generation_prompt": True, "continue_final_message": True}, "continue_final_message"),
    ({"chat_template_kwargs": {"messages": []}}, "messages"), ({"chat_template_kwargs": {"tokenize": True}}, "tokenize"),
    ({"functions": []}, "functions"), ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"chat_template": "{% for i in range(10**9) %}x{% endfor %}"}, "chat_template"),
    ({"chat_template": "{{ ''.__class__ }}"}, "prompt"),
    ({"chat_template": "{{ cycler.__init__.__globals__ }}"}, "messages"),
]  # fmt: skip


def refusal(desk, url, body):
    began = time.monotonic()
    with pytest.raises(RequestError) as error:
        parse_call(url, body).requests(desk.built.door, Numbering("r", 0, 0.0))
    assert time.monotonic() - began < 5
    shape = error_object(api_error(error.value))["error"]
    assert len(shape["message"]) < 500
    assert "\n" not in shape["message"]
    return shape


def ids(case):
    return repr(case)[:50] if isinstance(case, dict) else None


@pytest.mark.parametrize(("fields", "name"), BAD_COMPLETIONS, ids=ids)
def test_bad_completions(desk, fields, name):
    shape = refusal(desk, COMPLETIONS, {"prompt": "hello", **fields})
    assert str(shape["param"]).startswith(name)
    assert (
        name in shape["message"].lower() or shape["message"] == "Stream options can only be defined when `stream=True`."
    )


@pytest.mark.parametrize(("fields", "name"), BAD_CHATS, ids=ids)
def test_bad_chats(desk, fields, name):
    assert str(refusal(desk, CHAT, {"messages": HELLO, **fields})["param"]).startswith(name)


@pytest.mark.parametrize("body", [None, [], "x", 3, True])
@pytest.mark.parametrize("url", [COMPLETIONS, CHAT])
def test_what_is_no_object_is_no_body(desk, url, body):
    assert "JSON object" in refusal(desk, url, body)["message"]


def test_a_missing_field_is_named(desk):
    assert refusal(desk, COMPLETIONS, {})["message"] == "/v1/completions needs the field prompt."
    assert refusal(desk, CHAT, {})["param"] == "messages"


def test_a_typo_is_answered_with_the_nearest_name(desk):
    assert "did you mean 'temperature'?" in refusal(desk, COMPLETIONS, {"prompt": "a", "temprature": 1})["message"]


def test_what_is_too_long_has_a_code_of_its_own(desk):
    with pytest.raises(ContextLengthError) as error:
        parse_call(COMPLETIONS, {"prompt": [1] * 64}).requests(desk.built.door, Numbering("r", 0, 0.0))
    assert error_object(api_error(error.value))["error"]["code"] == "context_length_exceeded"
    assert "maximum context length" in str(error.value)


@pytest.mark.parametrize("length", [62, 63, 64])
def test_a_prompt_fits_until_there_is_no_room_for_a_token(desk, length):
    body = {"prompt": [1] * length, "max_tokens": 1}
    if length == 64:
        refusal(desk, COMPLETIONS, body)
    else:
        assert desk.answer(COMPLETIONS, body)["usage"]["total_tokens"] == length + 1
        refusal(desk, COMPLETIONS, {**body, "max_tokens": 65 - length})


@pytest.mark.parametrize(
    "neutral",
    [{"best_of": 1}, {"store": False}, {"user": None}, {"priority": 0}, {"use_beam_search": False}, {"suffix": None},
     {"temperature": None}, {"seed": -1}, {"max_tokens": None}, {"stop": None}, {"stream_options": None}],
    ids=repr,
)  # fmt: skip
def test_what_asks_for_nothing_is_taken(desk, neutral):
    assert desk.answer(COMPLETIONS, {"prompt": "hi", "max_tokens": 2, **neutral})["choices"]


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"a":1,}', '{"a":NaN}', '{"a":Infinity}', '{"a":-Infinity}', '{"a":1,"a":2}', "{'a':1}", b"\xff{}",
     '{"a":1' + "0" * 5000 + "}", "[" * 100_000, "[" * 200 + "]" * 200, '{"a":' * 101 + "1" + "}" * 101],
    ids=lambda text: repr(text)[:20],
)  # fmt: skip
def test_bad_json(text):
    with pytest.raises(RequestError):
        read_json(text)


def test_good_json():
    assert read_json(b'{"a": [1, 2.5, null, true, "\\u00e9"]}') == {"a": [1, 2.5, None, True, "é"]}
    assert read_json("[" * 100 + "]" * 100)


def test_a_defect_is_a_500_that_says_nothing():
    shape = error_object(api_error(KeyError("/secret/path")))
    assert api_error(KeyError("x")).status == 500
    assert "secret" not in str(shape)


@pytest.mark.parametrize(
    ("url", "more", "has"),
    [
        (COMPLETIONS, {"prompt": "x"}, False),
        (COMPLETIONS, {"prompt": "x", "response_format": {"type": "text"}}, False),
        (COMPLETIONS, {"prompt": "x", "response_format": {"type": "json_object"}}, True),
        (COMPLETIONS, {"prompt": "x", "structured_outputs": {"regex": "a"}}, True),
        (CHAT, {"messages": HELLO}, False),
        (CHAT, {"messages": HELLO, "tools": TOOLS, "tool_choice": "none"}, False),
        (CHAT, {"messages": HELLO, "tools": TOOLS}, True),
    ],
)
def test_a_call_knows_whether_it_brings_a_grammar_to_compile(url, more, has):
    assert parse_call(url, more).has_form is has
