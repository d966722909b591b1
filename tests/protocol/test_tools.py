"""Forms of answers and calls of tools: asked for, kept to, read back, and refused by name."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from orca_jax.core.errors import RequestError
from orca_jax.protocol.call import Numbering
from orca_jax.protocol.calls import parse_call
from orca_jax.protocol.tools import ToolStream
from orca_jax.text.tool_calls import CLOSE, OPEN, ToolCall, parse_tool_calls

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]
SWITCH = {
    "type": "object",
    "properties": {"on": {"type": "boolean"}},
    "required": ["on"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "switch", "description": "a lamp", "parameters": SWITCH}}
OTHER = {"type": "function", "function": {"name": "ring"}}


@pytest.mark.parametrize("url", [COMPLETIONS, CHAT])
@pytest.mark.parametrize(
    "form",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SWITCH, "strict": True}}},
        {"structured_outputs": {"json": SWITCH}},
        {"structured_outputs": {"json": json.dumps(SWITCH)}},
    ],
)
def test_a_schema_is_kept(desk, url, form):
    prompt = {"prompt": "x"} if url == COMPLETIONS else {"messages": HELLO}
    (choice,) = desk.answer(url, {**prompt, **form, "max_tokens": 40, "seed": 1})["choices"]
    text = choice["text"] if url == COMPLETIONS else choice["message"]["content"]
    assert choice["finish_reason"] == "stop"
    assert isinstance(json.loads(text)["on"], bool)


@pytest.mark.parametrize(
    ("form", "fits"),
    [({"regex": "[0-9]{2}"}, str.isdigit), ({"choice": ["yes", "no"]}, ("yes", "no").__contains__),
     ({"grammar": 'start: "a" "b"?'}, ("a", "ab").__contains__)],
)  # fmt: skip
def test_other_forms_are_kept(desk, form, fits):
    body = {"prompt": "x", "max_tokens": 20, "seed": 2, "structured_outputs": form}
    assert fits(desk.answer(COMPLETIONS, body)["choices"][0]["text"])


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "switch"}}])
@pytest.mark.parametrize("seed", range(3))
def test_a_required_call_can_be_read(large_desk, choice, seed):
    body = {"messages": HELLO, "tools": [TOOL], "tool_choice": choice, "max_tokens": 200, "seed": seed,
            "parallel_tool_calls": False}  # fmt: skip
    answer = large_desk.answer(CHAT, body)
    ChatCompletion.model_validate(answer)
    (found,) = answer["choices"]
    reason = "tool_calls" if choice == "required" else "stop"  # as OpenAI ends what had no choice
    assert found["finish_reason"] == reason
    (call,) = found["message"]["tool_calls"]
    assert call["function"]["name"] == "switch"
    assert isinstance(json.loads(call["function"]["arguments"])["on"], bool)
    chunks = large_desk.chunks(CHAT, {**body, "stream": True})
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    deltas = [c["delta"] for chunk in chunks for c in chunk["choices"]]
    (streamed,) = [call for delta in deltas for call in delta.get("tool_calls", [])]
    assert streamed["function"] == call["function"]
    assert chunks[-1]["choices"][0]["finish_reason"] == reason


def test_tools_that_may_not_be_called_change_nothing(desk):
    body = {"messages": HELLO, "max_tokens": 6, "seed": 1}
    plain = desk.answer(CHAT, body)["choices"]
    assert desk.answer(CHAT, {**body, "tools": [TOOL], "tool_choice": "none"})["choices"] == plain


BAD = [
    ({"tools": []}, "tools", "`tools` must not be an empty array."),
    ({"tools": [{"type": "function"}]}, "tools", "function"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools", "name"),
    ({"tools": [{"type": "retrieval", "function": {"name": "x"}}]}, "tools", "type"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools", "letters"),
    ({"tools": [TOOL, TOOL]}, "tools", "twice"),
    ({"tools": [TOOL] * 2000}, "tools", "128"), ({"tools": [TOOL] * 10_000}, "tools", "2048"),
    ({"tools": [{"type": "function", "function": {"name": "x", "parameters": {"type": "array"}}}]}, "tools", "object"),
    ({"tools": [{"type": "function", "function": {"name": "x", "parameters": 3}}]}, "tools", "object"),
    ({"tools": [{"type": "function", "function": {"name": "x", "prameters": {}}}]}, "tools", "prameters"),
    ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice", "required"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "swich"}}}, "tool_choice", "switch"),
    ({"tools": [TOOL], "tool_choice": {"name": "switch"}}, "tool_choice", "function"),
    ({"tool_choice": "auto"}, "tool_choice", "When using `tool_choice`, `tools` must be set."),
    ({"tools": [TOOL], "response_format": {"type": "json_object"}}, "tools", "keep one"),
    ({"response_format": {"type": "xml"}}, "response_format", "json_schema"),
    ({"response_format": {"type": "json_schema"}}, "response_format", "must be provided"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": 3}}}, "response_format", "object"),
    ({"response_format": {"type": "json_object", "schema": {}}}, "response_format", "schema"),
    ({"response_format": {"type": "structural_tag"}}, "response_format", "json_schema"),
    ({"response_format": "json"}, "response_format", "dict"),
    ({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}}, "response_format", "keep one"),
    ({"structured_outputs": {}}, "structured_outputs", "exactly one"),
    ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs", "exactly one"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs", "at least one"),
    ({"structured_outputs": {"choice": [""]}}, "structured_outputs", "empty"),
    ({"structured_outputs": {"choice": ["x"] * 100_000}}, "structured_outputs", "1024"),
    ({"structured_outputs": {"grammar": "start: start"}}, "structured_outputs", ""),
    ({"structured_outputs": {"regex": "("}}, "structured_outputs", ""),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}}}, "response_format", ""),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "array", "minItems": 10**9}}}},
     "response_format", ""),
    ({"tools": [{"type": "function", "function": {"name": "x", "parameters": {"$ref": "#"}}}]}, "tools", ""),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "name", "text"), BAD, ids=lambda value: str(value)[:40])
def test_bad_forms(desk, fields, name, text):
    with pytest.raises(RequestError) as error:
        call = parse_call(CHAT, {"messages": HELLO, "max_tokens": 8, **fields})
        call.requests(desk.built.door, Numbering("r", 0, 0.0))
    assert str(error.value.parameter).startswith(name)
    assert text in str(error.value)


PIECES = st.sampled_from(
    ["hello ", "<", "tool_call>", OPEN, CLOSE, '{"name":"f","arguments":{"x":"</tool_call>"}}',
     '{"name":"f","arguments":{}}', f'{OPEN}{{"name":"g","arguments":{{"a":1}}}}{CLOSE}', "\n", "é"]
)  # fmt: skip


@given(pieces=st.lists(PIECES, max_size=8), cuts=st.lists(st.integers(0, 200), max_size=12))
@example(pieces=["hello <", "tool_call>", '{"name":"f","arguments":{}}', CLOSE], cuts=list(range(60)))
def test_a_stream_says_and_calls_what_the_whole_text_does(pieces, cuts):
    text = "".join(pieces)
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    stream, said, calls = ToolStream(), "", []
    for first, then in zip(places, places[1:] + [len(text)], strict=True):
        new, called = stream.push(text[first:then], last=then == len(text) and first == places[-1])
        said += new
        calls += called
    content, expected = parse_tool_calls(text)
    assert calls == expected
    assert said == content if not calls else said.rstrip() == said
    assert said.lstrip() == content.lstrip()


def test_text_is_not_held_back_longer_than_needed():
    stream = ToolStream()
    assert stream.push("I will <", False) == ("I will", [])
    assert stream.push("b>\n", False) == (" <b>", [])
    assert stream.push(OPEN + '{"name":"f",', False) == ("", [])
    assert stream.push('"arguments":{}}' + CLOSE + " bye", True) == ("\n bye", [ToolCall("f", "{}")])
