"""Tool calls: whatever a model says under the grammar is read back as calls whose arguments parse."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_jax.core.errors import RequestError
from orca_jax.text.tool_calls import MAX_TOOLS, Tool, ToolCall, parse_tool_calls, tool_grammar
from tests.grammar.walks import allowed, walk

WEATHER = Tool("get_weather", {
    "type": "object", "additionalProperties": False, "required": ["city"],
    "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"type": "integer", "minimum": 0, "maximum": 9}},
})  # fmt: skip
NOW = Tool("now")
MIXED = Tool("mixed-1", {"properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": False})
TOOLS = [WEATHER, NOW, MIXED]
CALL = '<tool_call>{"name": "get_weather", "arguments": {"city":"x"}}</tool_call>'


def check(call):
    arguments = json.loads(call.arguments)
    assert isinstance(arguments, dict)
    if call.name == "get_weather":
        assert set(arguments) <= {"city", "days"} and isinstance(arguments["city"], str)
        assert 0 <= arguments.get("days", 0) <= 9
    elif call.name == "mixed-1":
        assert set(arguments) == {"on"} and isinstance(arguments["on"], bool)
    else:
        assert call.name == "now" and arguments == {}


@given(st.integers(0, 10**6), st.booleans())
def test_required_calls_always_parse(compiler, tokenizer, seed, parallel):
    grammar = tool_grammar(TOOLS, "required", parallel=parallel).grammar
    text, ended = walk(compiler, tokenizer, seed, most=400, grammar=grammar)
    content, calls = parse_tool_calls(text)
    for call in calls:
        check(call)
    if ended:
        assert calls and content == "" and (parallel or len(calls) == 1)


@given(st.integers(0, 10**6), st.sampled_from(TOOLS))
def test_a_named_tool_is_called_once(compiler, tokenizer, seed, tool):
    text, ended = walk(compiler, tokenizer, seed, most=400, grammar=tool_grammar(TOOLS, tool).grammar)
    assert ended
    content, (call,) = parse_tool_calls(text)
    assert content == "" and call.name == tool.name
    check(call)


def after(compiler, tokenizer, grammar, text):
    """The texts that may come after `text`, None if it is refused; "" stands for the end."""
    compiled = compiler.compile(grammar)
    matcher = compiled.matcher((0,))
    for token in tokenizer.encode(text, False):
        if token not in allowed(matcher, compiled.words):
            return None
        matcher.accept(token)
    return {"" if token == 0 else tokenizer.token_text(token) for token in allowed(matcher, compiled.words)}


def test_auto_is_free_text_that_calls_may_end(compiler, tokenizer):
    grammar = tool_grammar(TOOLS)
    for text in ("", "Let me see: 1 < 2, ", "a <tool", "<tool_calls>"):
        assert {"", "a", "<", "\n"} <= after(compiler, tokenizer, grammar, text)
    assert after(compiler, tokenizer, grammar, "Let me see.<tool_call>") == {" ", "\n", "{"}
    assert {"", "<"} <= after(compiler, tokenizer, grammar, "Let me see. " + CALL) <= {"", "<", "\n", " "}
    assert after(compiler, tokenizer, grammar, CALL + " done") is None
    assert after(compiler, tokenizer, grammar, "x <tool_call>nothing") is None
    assert after(compiler, tokenizer, tool_grammar(TOOLS, parallel=False), CALL) == {""}


def test_the_parser_gives_back_text_and_calls():
    spaced = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    tricky = '<tool_call>{"name": "f", "arguments": {"s": "</tool_call>é\\n"}}</tool_call>'
    content, calls = parse_tool_calls(f"Well.\n{CALL}\n{spaced}{tricky}")
    assert content == "Well."
    assert calls[:2] == [ToolCall("get_weather", '{"city":"x"}'), ToolCall("now", "{}")]
    assert json.loads(calls[2].arguments) == {"s": "</tool_call>é\n"}


@pytest.mark.parametrize(
    "text",
    ["", " plain ", CALL[:-1], "<tool_call>{", "<tool_call>[1]</tool_call>", '<tool_call>{"name": 1}</tool_call>',
     '<tool_call>{"name": "f", "arguments": []}</tool_call>', "<tool_call>" + "[" * 10**5],
)  # fmt: skip
def test_what_is_no_call_stays_text(text):
    assert parse_tool_calls(text) == (text, [])
    assert parse_tool_calls(text + CALL)[1] == [ToolCall("get_weather", '{"city":"x"}')]


@pytest.mark.parametrize(
    ("tools", "choice", "parameter", "text"),
    [
        ([], "auto", "tools", "at least one"),
        ([NOW] * (MAX_TOOLS + 1), "auto", "tools", "has 129 entries"),
        ([NOW, NOW], "auto", "tools", "'now' twice"),
        ([Tool("")], "auto", "tools", "1 to 64 letters"),
        ([Tool('x"}')], "auto", "tools", "1 to 64 letters"),
        ([Tool("f", {"type": "array"})], "auto", "tools", "must describe an object, got type 'array'"),
        ([Tool("f", {"a": {1}})], "auto", "tools", "tool 'f': .*cannot be written as JSON"),
        ([Tool("f", {"enum": list(range(10**5))})], "auto", "tools", "more than 65536 parts"),
        ([Tool(f"f{i}", {"description": "x" * 1000}) for i in range(100)], "auto", "tools", "characters together"),
        ([NOW], "none", "tool_choice", "must be auto, required or a tool"),
        ([NOW], Tool("nov"), "tool_choice", "names 'nov', which is none of the tools .did you mean 'now'"),
    ],
)
def test_bad_tools_are_refused_by_name(tools, choice, parameter, text):
    with pytest.raises(RequestError, match=text) as caught:
        tool_grammar(tools, choice)
    assert caught.value.parameter == parameter
