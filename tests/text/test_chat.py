"""Conversations through templates: what they become, and what a bad template or message is told."""

from datetime import datetime

import pytest

from orca_jax.core.errors import RequestError
from orca_jax.testing.tiny_tokenizer import write_tokenizer
from orca_jax.text import sandbox
from orca_jax.text.chat import render
from orca_jax.text.template import ChatTemplate
from orca_jax.text.tokenizer import Tokenizer

HI = [{"role": "user", "content": "hi"}]
TURNS = [*HI, {"role": "assistant", "content": "well "}]


def write(source, **variables):
    return ChatTemplate(source).render(variables)


def refusal(call, *args, **kwargs):
    with pytest.raises(RequestError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    return caught.value


def test_the_checkpoints_template(byte_level):
    assert render(byte_level, HI) == "<|begin|><|user|>hi\n<|assistant|>"
    assert render(byte_level, HI, add_generation_prompt=False) == "<|begin|><|user|>hi\n"
    assert render(byte_level, TURNS) == "<|begin|><|user|>hi\n<|assistant|>well<|end|>\n<|assistant|>"
    ids = byte_level.encode(render(byte_level, HI), add_special_tokens=False)
    assert ids[:2] == [1, 2] and ids[-1] == 3


def test_the_final_message_can_be_continued(byte_level):
    options = {"add_generation_prompt": False, "continue_final_message": True}
    assert render(byte_level, TURNS, **options) == "<|begin|><|user|>hi\n<|assistant|>well"
    keeps = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    assert render(byte_level, TURNS, chat_template=keeps, **options) == "[hi][well "
    twice = "{{ messages[0].content }}|{{ messages[0].content | trim }}|{{ messages[0].content }}"
    assert render(byte_level, HI, chat_template=twice, **options) == "hi|hi|hi"
    assert TURNS[-1]["content"] == "well "
    error = refusal(render, byte_level, TURNS, continue_final_message=True)
    assert str(error) == "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
    assert refusal(render, byte_level, HI, chat_template="x", **options).parameter == "continue_final_message"


def test_templates_by_source_name_and_default(tmp_path):
    named = [{"name": "short", "template": "{{ messages[0].content }}!"}]
    tokenizer = Tokenizer.from_folder(write_tokenizer(tmp_path, chat_template=named))
    assert render(tokenizer, HI, chat_template="short") == "hi!"
    assert render(tokenizer, HI, chat_template="{{ eos_token }}") == "<|end|>"
    error = refusal(render, tokenizer, HI)
    assert error.parameter == "chat_template" and "no chat template but those named short" in str(error)
    for number in range(20):
        assert render(tokenizer, HI, chat_template=f"{number}") == f"{number}"
    tokenizer.chat_templates.clear()
    assert "pass one as chat_template (jinja source), or use generate()" in str(refusal(render, tokenizer, HI))


def test_content_may_come_in_parts(byte_level):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, "c"]
    assert render(byte_level, [{"role": "user", "content": parts}]) == "<|begin|><|user|>a\nb\nc\n<|assistant|>"
    nulls = [{"role": "user", "content": "hi", "tool_calls": None, "name": None}]
    assert render(byte_level, nulls) == render(byte_level, HI)
    name = [{"role": "user", "content": "hi", "name": "eve"}]
    assert render(byte_level, name, chat_template="{{ messages[0].name }}") == "eve"


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "at least one message"),
        ({}, "messages must be a list of messages, got a dict"),
        ("hi", "messages must be a list of messages, got 'hi'"),
        (None, "must be a list of messages, got None"),
        (HI * 10_001, "has 10001 entries; at most 10000"),
        ([5], r"messages\[0\] must be an object with role and content, got 5"),
        ([{"content": "x"}], r"messages\[0\]: role must be one of system, developer, user, assistant, tool, got None"),
        ([*HI, {"role": "root", "content": "x"}], r"messages\[1\]: role must be one of .*, got 'root'"),
        ([{"role": ["user"], "content": "x"}], "role must be one of"),
        ([{"role": "function", "content": "x"}], "role must be one of .*, got 'function'"),
        ([{"role": "user", "content": "", "tool_calls": []}], "tool_calls is not supported by .*: only an assistant"),
        ([{"role": "user", "content": "", "tool_call_id": "1"}], "tool_call_id is not supported by .*: only a tool"),
        ([{"role": "assistant", "content": "", "tool_calls": 5}], "tool_calls must be a list"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[]"}}]}],
            "must be a JSON object",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
            "must be a JSON object",
        ),
        ([{"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}], "function.name must be a string"),
        ([{"role": "assistant", "tool_calls": [{"type": "x", "function": {"name": "f"}}]}], "type must be 'function'"),
        ([{"role": "user"}], r"messages\[0\]\.content must be a string, got None"),
        ([{"role": "user", "content": 5}], "content must be a string, got 5"),
        ([{"role": "user", "content": "\ud800"}], "unpaired surrogate"),
        ([{"role": "user", "content": [5]}], r"content\[0\] must be a text part, got 5"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "parts of type 'image_url' are not supported"),
        ([{"role": "user", "content": [{"type": "text"}]}], r"content\[0\]\.text must be a string"),
        ([{"role": "assistant", "content": "", "tool_calls": [{}]}], "must be an object with id, type and function"),
        ([{"role": "user", "contents": "x"}], "'contents' is not a parameter of .* .did you mean 'content'"),
    ],
)
def test_bad_messages(byte_level, messages, message):
    with pytest.raises(RequestError, match=message):
        render(byte_level, messages)


def test_variables_of_the_template(byte_level):
    source = "{{ enable_thinking }} {{ eos_token }}"
    thinking = {"enable_thinking": False, "eos_token": "E"}
    assert render(byte_level, HI, chat_template=source, template_kwargs=thinking) == "False E"
    for name in ("messages", "tokenize", "chat_template", "tools"):
        assert refusal(render, byte_level, HI, template_kwargs={name: 1}).parameter == name
    assert refusal(render, byte_level, HI, template_kwargs={"x": object()}).parameter == "chat_template_kwargs"


def test_the_dialect_of_chat_templates():
    assert write("{% for x in [1, 2] %}\n    {% if x == 1 %}\n a\n    {% endif %}\n{% endfor %}\n") == " a\n"
    assert write("{% for x in xs %}{% if x > 2 %}{% break %}{% endif %}{{ x }}{% endfor %}", xs=[1, 2, 3]) == "12"
    assert write("{% generation %}{{ x }}{% endgeneration %}", x="a") == "a"
    assert write("{{ x | tojson }}", x={"b": "é<", "a": [1]}) == '{"b": "é<", "a": [1]}'
    assert write("{{ x | tojson(indent=1) }}", x=[1]) == "[\n 1\n]"
    assert (
        write("{% set ns = namespace(n=0) %}{% for x in 'abc' %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}") == "3"
    )
    assert write("{{ 'a' ~ 1 ~ none }}{{ 7 * 6 }}{{ 'x' * 3 }}{{ '%02d' % 5 }}{{ 'ab'.upper() }}") == "a1None42xxx05AB"
    assert write(
        "{% for x in xs %}{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}{% endfor %}", xs="ab"
    ) == ("1/2,2/2")
    assert write("{% for k, v in d.items() %}{{ k }}{{ v }}{% else %}none{% endfor %}", d={}) == "none"
    assert write("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(1) }}{{ missing }}") == "<1>"
    assert (
        write("{{ xs | selectattr('r', 'equalto', 1) | map(attribute='v') | join('+') }}", xs=[{"r": 1, "v": 2}]) == "2"
    )
    now = ChatTemplate("{{ strftime_now('%Y-%m') }}", now=lambda: datetime(2026, 11, 23))
    assert now.render({}) == "2026-11"


def test_what_the_template_says_is_passed_on():
    error = refusal(write, "{{ raise_exception('roles must\n alternate') }}")
    assert str(error) == "the chat template refuses: roles must alternate" and error.parameter == "messages"
    assert refusal(write, "{{ 1 / 0 }}").parameter == "chat_template"
    assert "cannot be compiled" in str(refusal(write, "{% if %}"))
    assert "cannot be compiled" in str(refusal(write, "{% if 1 %}" * 200 + "{% endif %}" * 200))
    assert "at most 1048576" in str(refusal(write, "x" * (2**20 + 1)))


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''['__class__'].x }}",
        "{{ (''|attr('__class__')).x }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ raise_exception.__globals__.x }}",
        "{{ strftime_now.__closure__[0] }}",
        "{{ '{0.__class__.x}'.format(1) }}",
        "{% set ns = namespace(__class__=1) %}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{% set _ = messages.append(1) %}",
        "{{ self.__init__.x }}",
        "{{ self._TemplateReference__context.environment }}",
    ],
)
def test_the_sandbox_holds(source):
    error = refusal(write, source, messages=[])
    assert "0x" not in str(error)


def test_what_is_unsafe_shows_as_nothing():
    assert write("{{ ''.__class__ }}{{ '{0.__class__}'.format(1) }}{{ raise_exception.__globals__ }}") == ""


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(10**9) %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'x' * 100 }}{% endfor %}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(64) }}",
        "{{ 'x' * 10**9 }}",
        "{{ 10**9 * 'x' }}",
        "{{ [1] * 10**9 }}",
        "{{ 9**(9**9) }}",
        "{% set ns = namespace(n=3) %}{% for i in range(60) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}"
        "{% set s %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = s %}{% endfor %}",
        "{{ 'x'|center(10**9) }}",
        "{{ 'x'.center(10**9) }}",
        "{{ 'x'.zfill(10**9) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ '%999999999d'|format(1) }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ [1]|tojson(indent=10**9) }}",
        "{{ lipsum(n=10**9) }}",
        "{% for x in [[[]]] recursive %}{{ loop(x) }}{% endfor %}",
    ],
)
def test_bombs_are_refused_in_bounded_work(source, monkeypatch):
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 1.0)
    refusal(write, source)


def test_a_rendering_has_a_deadline():
    times = iter(range(100))
    meter = sandbox.Meter(lambda: next(times))
    with pytest.raises(sandbox.TooMuchWork, match="more than 5 seconds"):
        list(meter.turns(range(10_000)))
    assert next(times) == 7


def test_calls_of_tools_and_their_answers_reach_the_template(byte_level):
    template = (
        "{{ tools[0].function.name }}:{% for m in messages %}[{{ m.role }} {{ m.content }}"
        "{% for c in m.tool_calls or [] %}{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}"
        "{{ m.tool_call_id or '' }}]{% endfor %}"
    )
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}]},
        {"role": "tool", "content": "2", "tool_call_id": "1"},
    ]  # fmt: skip
    tools = [{"type": "function", "function": {"name": "add"}}]
    text = render(byte_level, messages, chat_template=template, tools=tools)
    assert text == 'add:[assistant add{"a": 1}][tool 21]'
