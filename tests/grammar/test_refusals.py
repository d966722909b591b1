"""What is no grammar for this engine: each refused in bounded time with one line, and what looks alike but is fine."""

import sys
import time

import pytest

from orca_jax.core.errors import RequestError
from orca_jax.core.structured_outputs import StructuredOutputsParams
from orca_jax.grammar.json_schema import check_schema
from orca_jax.grammar.lark import prepared_lark


def nested(depth):
    schema = {}
    for _ in range(depth):
        schema = {"properties": {"a": schema}}
    return schema


def circular():
    schema = {}
    schema["properties"] = {"a": schema}
    return schema


NEVER = {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "properties": {"x": {"$ref": "#/$defs/a"}},
                                              "required": ["x"]}}}  # fmt: skip
PING = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
CHAIN = "\n".join(["start: r0", *(f'r{i}: "x" r{i + 1}' for i in range(1000)), 'r1000: "y"'])
WIDE = {"allOf": [{"type": "string", "pattern": f".*{c}.*"} for c in "abcdefghijklmnop"]}

BAD = [
    ("json", nested(100), "nested more than 64"),
    ("json", circular(), "nested more than 64"),
    ("json", '{"a":' * 10_000, "nested more than 64"),
    ("json", '{"a":' * 100_000, "has 500000 characters"),
    ("json", {"enum": list(range(10**5))}, "more than 65536 parts"),
    ("json", "[1]", "which is an object, got a list of 1"),
    ("json", "null", "which is an object, got None"),
    ("json", 5, "which is an object, got 5"),
    ("json", "{}x", "not valid JSON"),
    ("json", {"a": float("nan")}, "cannot be written as JSON"),
    ("json", {"a": {1}}, "cannot be written as JSON"),
    ("json", {"a": "\ud800"}, "not valid text"),
    ("json", {"$ref": "#"}, "never ends: its .ref '#' requires itself"),
    ("json", PING, "never ends"),
    ("json", NEVER, "never ends"),
    ("json", {"$ref": "#/nowhere"}, "'/nowhere' does not exist"),
    ("json", {"$ref": "http://example.com/x"}, "does not fetch"),
    ("json", {"properties": {f"k{i}": {"$ref": f"#/$defs/{i}"} for i in range(500)}}, "500 different .ref"),
    ("json", {"type": "array", "minItems": 10**9}, "minItems of the JSON schema is 1000000000"),
    ("json", {"properties": {"a": {"minLength": 1e9}}}, "minLength of the JSON schema"),
    ("json", {"type": "string", "pattern": "(a+)+$"}, "pattern of the JSON schema repeats a repetition"),
    ("json", {"type": "object", "patternProperties": {"(a*)*": {}}}, "repeats a repetition"),
    ("json", {"type": "string", "pattern": "(?!a)b"}, "look-around"),
    ("json", {"type": "string", "format": "nope"}, "Unknown format: nope"),
    ("json", {"not": {}}, 'Unimplemented keys: ."not"'),
    ("json", {"uniqueItems": True, "type": "array"}, 'Unimplemented keys: ."uniqueItems"'),
    ("json", {"type": "foo"}, "Invalid type: foo"),
    ("json", {"enum": []}, "Unsatisfiable"),
    ("json", {"type": "integer", "multipleOf": 999999937}, "fuel exhausted"),
    ("json", WIDE, "Unable to determine"),
    ("regex", "(a+)+$", "repeats a repetition"),
    ("regex", "((a)*|b)*", "repeats a repetition"),
    ("regex", "(?:(?P<x>a{2,}))*", "repeats a repetition"),
    ("regex", "(a{1000}){1000}", "counts up to 1000000"),
    ("regex", "((a{100}){100}){100}", "counts up to 1000000"),
    ("regex", "a{1000000}", "counts up to 1000000"),
    ("regex", "(" * 5000 + ")" * 5000, "nested more than 64"),
    ("regex", "(", "unclosed group"),
    ("regex", r"(a)\1", "backreferences are not supported"),
    ("regex", "(?=a)b", "look-around"),
    ("regex", "", "is empty"),
    ("regex", 5, "must be a string"),
    ("regex", r"[^\s\S]", "admits no text"),
    ("regex", "x" * 70_000, "has 70000 characters"),
    ("grammar", "", "is empty"),
    ("grammar", "\n", "Empty grammar"),
    ("grammar", 'foo: "a"', "no start rule"),
    ("grammar", "start: foo", "unknown name"),
    ("grammar", 'start: "a', "has a text without its end"),
    ("grammar", "start: /a", "has a regular expression without its end"),
    ("grammar", "start: /(a+)+\n/", "repeats a repetition"),
    ("grammar", 'start: "x"\n%ignore /(a+)+/', "repeats a repetition"),
    ("grammar", 'start: a\n  a: a "x" | "y"', "left-recursive: rule 'a'"),
    ("grammar", 'start: start "a" | "a"', "left-recursive: rule 'start'"),
    ("grammar", 'start: a\na: a a | "x" |', "left-recursive: rule 'a'"),
    ("grammar", 'start: b "x"\nb: c? start\nc: "y"', "left-recursive"),
    ("grammar", 'start: [x] ("" start) | x\nx: "x"', "left-recursive"),
    ("grammar", "start: a\na: a", "left-recursive: rule 'a'"),
    ("grammar", 'start: "a" start', "never ends: 'start'"),
    ("grammar", CHAIN + '\nr1001: "z"' * 99, "more than 1024 rules|is already defined|duplicate"),
    ("grammar", "\n".join(["start: r0", *(f"r{i}: r{i + 1}" for i in range(1100))]), "more than 1024 rules"),
    ("grammar", "start: " + "(" * 200 + '"a"' + ")" * 200, "nested more than 64"),
    ("grammar", 'start: "a"{1000000000}', "counts up to 1000000000"),
    ("grammar", 'start: "a"~2..1000000000', "counts up to 1000000000"),
    ("grammar", "start: /(a+)+/", "repeats a repetition"),
    ("grammar", 'start: %json {"type":"array","minItems":1000000000}', "minItems"),
    ("grammar", 'start: %json {"a":', "not valid JSON"),
    ("grammar", 'start: "x" | %lark { start: "y" }', "%lark"),
    ("choice", [], "must name at least one"),
    ("choice", [""], "cannot contain an empty string"),
    ("choice", ["a", 3], "must hold strings, got 3"),
    ("choice", "yes", "must be a list of strings"),
    ("choice", [str(i) for i in range(10**5)], "at most 1024 entries"),
    ("choice", ["x" * 2000], "a string of 2000 characters"),
    ("choice", [f"{i:0>100}" for i in range(1000)], "more than 65536 characters in all"),
    ("json_object", 1, "must be True or False"),
    ("json_object", False, "exactly one of .* got none"),
    ("structural_tag", "x", "structural_tag is not supported by structured_outputs"),
    ("jsn", {}, "did you mean 'json'"),
]  # fmt: skip


def wrapped(depth, schema, wrap):
    for _ in range(depth):
        schema = wrap(schema)
    return schema


def test_all_that_a_grammar_requires_is_counted_not_walked_again():
    """As many calls for each part, however rules and references depend on each other; without a clock."""

    def lark(size):
        rules = [f'r{i}: "x" r{i + 1}' for i in range(size // 10)] + [f'r{size // 10}: "y"']
        return "\n".join(["start: " + " ".join(f"r{i % (size // 10)}" for i in range(size)), *rules])

    def schema(size):
        fat = {"anyOf": [{} for _ in range(size)]}
        refs = [{"$ref": "#" + "/allOf/0" * i} for i in range(size // 50)]
        return {**wrapped(size // 50, fat, lambda inner: {"allOf": [inner]}), "anyOf": refs}

    for check, make in ((prepared_lark, lark), (check_schema, schema)):
        small, large = calls_of(check, make(700)), calls_of(check, make(2800))
        assert large < 4.5 * small


def calls_of(function, argument):
    count = 0

    def counted(frame, event, _):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        function(argument)
    finally:
        sys.setprofile(None)
    return count


E = {"$ref": "#/$defs/e"}
HARD = [  # each took minutes, or for ever, in an expression that backtracks or a walk that repeats itself
    ("grammar", "start: /" + "[a]" * 20_000, "without its end"),
    ("grammar", "start: " + "\\/" * 30_000, "without its end"),
    ("grammar", 'start: "a"{' + " " * 60_000 + "x", "is refused"),
    ("regex", "a{" + " " * 60_000 + "x", "is refused"),
    ("regex", "[" * 65_000, "is refused"),
    ("json", wrapped(29, {"type": "foo"}, lambda s: {"type": "object", "properties": {"a": s}, "required": ["a"] * 9}),
     "Invalid type: foo"),
    ("json", {"$defs": {"e": E}, **wrapped(30, E, lambda s: {"type": ["array"] * 9, "items": s, "minItems": 1})},
     "never ends"),
]  # fmt: skip
BAD += HARD


@pytest.mark.parametrize(("kind", "value", "text"), BAD, ids=[f"{i}-{kind}" for i, (kind, _, _) in enumerate(BAD)])
def test_bad_grammars_are_refused_by_name_in_bounded_time(compiler, kind, value, text):
    compiler.prepare()
    began = time.process_time()
    with pytest.raises(RequestError, match=text) as caught:
        compiler.compile(StructuredOutputsParams.of({kind: value}))
    assert time.process_time() - began < 2
    assert caught.value.parameter == "structured_outputs"
    assert len(str(caught.value)) < 420 and "\n" not in str(caught.value)


GOOD = [
    ("json", nested(31)),
    ("json", {}),
    ("json", {"type": "object", "properties": {"next": {"$ref": "#"}}}),
    ("json", {"type": "array", "items": {"$ref": "#"}}),
    ("json", {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"n": {"$ref": "#"}}, "required": ["n"]}]}),
    ("json", {"type": "object", "title": "T", "default": {"minItems": 10**9}}),
    ("json", {"type": "object", "properties": {"minItems": {"type": "integer"}}}),
    ("json", {"type": "string", "pattern": "^[a-z]+(-[a-z]+)*$"}),
    ("json", {"$defs": {str(i): {"$ref": f"#/$defs/{i + 1}"} for i in range(200)} | {"200": {"type": "null"}},
              "$ref": "#/$defs/0"}),
    ("regex", "([a-z]+ )*[a-z]+"),
    ("regex", "(a|b)*"),
    ("regex", "[+*]+"),
    ("regex", r"\d{3}-\d{4}"),
    ("regex", "a{2}{3}"),
    ("regex", r"\{a\}+\(+"),
    ("regex", "(?i)(?:ab?)+"),
    ("grammar", 'start: e\ne: t (("+"|"-") t)*\nt: /[0-9]+/ | "(" e ")"'),
    ("grammar", 'start: "a" start |'),
    ("grammar", '?start: x\n// comment "\n!x: "a"i -> foo\n | "b"'),
    ("grammar", 'start: A B?\nA: "x"+\nB: /y{1,3}/'),
    ("grammar", 'start: "x"{2,5} y~3\ny: "z"'),
    ("grammar", '%ignore / +/\nstart: "a" "b"'),
    ("grammar", CHAIN),
    ("choice", ['with "quotes" and \\ and \n', "日本語"]),
    ("json_object", True),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value"), GOOD, ids=[f"{i}-{kind}" for i, (kind, _) in enumerate(GOOD)])
def test_what_only_looks_bad_is_compiled(compiler, kind, value):
    grammar = compiler.compile(StructuredOutputsParams.of({kind: value}))
    assert not grammar.matcher((0,)).finished


def test_exactly_one_member_and_plain_dicts():
    with pytest.raises(RequestError, match=r"exactly one of json, .* got regex, choice"):
        StructuredOutputsParams(regex="a", choice=["b"])
    with pytest.raises(RequestError, match="must be StructuredOutputsParams or a dict, got 5"):
        StructuredOutputsParams.of(5)
    params = StructuredOutputsParams.of({"json": {"type": "null"}, "regex": None})
    assert params == StructuredOutputsParams(json='{"type": "null"}')
    assert params.kind == "json" and params.source == '{"type":"null"}' and hash(params)
