"""What a grammar admits: texts that parse and match, ended where they may end, over any vocabulary."""

import json
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_jax.core.errors import GrammarError, RequestError
from orca_jax.core.structured_outputs import StructuredOutputsParams
from orca_jax.grammar.compiler import KEPT_GRAMMARS, GrammarCompiler
from tests.grammar.conftest import PADDED
from tests.grammar.walks import allowed, walk

LEAVES = st.sampled_from([
    {"type": "boolean"}, {"type": "null"}, {"type": "integer", "minimum": 0, "maximum": 99},
    {"type": "string", "maxLength": 5}, {"enum": ["red", "green", 7]}, {"type": "string", "pattern": "^[a-f]{2}$"},
])  # fmt: skip


def containers(inner):
    arrays = st.builds(
        lambda items, most: {"type": "array", "items": items, "maxItems": most}, inner, st.integers(0, 2)
    )
    objects = st.builds(
        lambda properties, all_of_them: {
            "type": "object", "properties": properties, "additionalProperties": False,
            "required": sorted(properties) if all_of_them else [],
        },
        st.dictionaries(st.sampled_from("abc"), inner, max_size=2), st.booleans(),
    )  # fmt: skip
    return arrays | objects


SCHEMAS = st.recursive(LEAVES, containers, max_leaves=4)


def fits(value, schema) -> bool:
    """The few keywords above, as JSON Schema means them."""
    if "enum" in schema:
        return value in schema["enum"]
    kind = schema["type"]
    if kind == "object":
        inside = all(name in schema["properties"] and fits(v, schema["properties"][name]) for name, v in value.items())
        return isinstance(value, dict) and inside and set(schema["required"]) <= set(value)
    if kind == "array":
        return len(value) <= schema["maxItems"] and all(fits(item, schema["items"]) for item in value)
    if kind == "string":
        return len(value) <= schema.get("maxLength", 99) and re.search(schema.get("pattern", ""), value) is not None
    if kind == "integer":
        return type(value) is int and 0 <= value <= 99
    return value is None if kind == "null" else isinstance(value, bool)


@given(SCHEMAS, st.integers(0, 99))
def test_json_fits_its_schema_and_has_no_spaces(compiler, tokenizer, schema, seed):
    text, ended = walk(compiler, tokenizer, seed, json=schema)
    assert ended
    value = json.loads(text)
    assert fits(value, schema)
    assert text == json.dumps(value, separators=(",", ":"), ensure_ascii=False) or "\\" in text


ATOMS = st.sampled_from(["[a-f]", "[0-9]", "x", r"\.", "é", "(?:ab|cd)"])
COUNTS = st.sampled_from(["", "?", "{2}", "{1,3}", "*", "+"])
PATTERNS = st.lists(st.tuples(ATOMS, COUNTS).map("".join), min_size=1, max_size=5).map("".join)


@given(PATTERNS, st.integers(0, 99))
def test_a_text_matches_its_regex_whole(compiler, tokenizer, pattern, seed):
    text, ended = walk(compiler, tokenizer, seed, most=30, regex=pattern)
    if ended:
        assert re.fullmatch(pattern, text)


@given(st.lists(st.text(max_size=6).filter(bool), min_size=1, max_size=5), st.integers(0, 99))
def test_a_choice_is_one_of_them_in_any_vocabulary(compiler, tokenizer, byte_fallback, choices, seed):
    text, ended = walk(compiler, tokenizer, seed, choice=choices)
    assert ended and text in choices
    end = byte_fallback.eos_id
    other = GrammarCompiler(byte_fallback, byte_fallback.vocab_size, (end,))
    text, ended = walk(other, byte_fallback, seed, eos_ids=(end,), choice=choices)
    assert ended and text in (c.removeprefix(" ") for c in choices)  # this tokenizer's decoder drops one space at first


def test_any_json_object_is_an_object(compiler, tokenizer):
    texts = [walk(compiler, tokenizer, seed, most=100, json_object=True) for seed in range(20)]
    assert all(isinstance(json.loads(text), dict) for text, ended in texts if ended)
    assert sum(ended for _, ended in texts) > 3


def test_json_within_a_grammar_is_compact_and_checked_like_any(compiler, tokenizer):
    grammar = 'start: "x" %json {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],' \
              ' "additionalProperties": false}'  # fmt: skip
    assert walk(compiler, tokenizer, 1, grammar=grammar)[0] in ('x{"a":true}', 'x{"a":false}')


def test_ids_beyond_the_tokenizer_and_special_ones_are_never_allowed(compiler, tokenizer):
    grammar = compiler.compile(StructuredOutputsParams(regex="(?s:.)*"))
    assert grammar.words == -(-PADDED // 32)
    tokens = allowed(grammar.matcher((0,)), grammar.words)
    assert max(tokens) < tokenizer.vocab_size < PADDED
    assert set(tokens) & set(tokenizer.special_ids) == {0} and len(tokens) > 200


def test_only_the_ends_of_the_answer_end_it(tokenizer):
    compiler = GrammarCompiler(tokenizer, PADDED, (0, 3))
    grammar = compiler.compile(StructuredOutputsParams(regex="[ab]+"))
    for ends, expected in (((0, 3), {0, 3}), ((3,), {3}), ((), set())):
        matcher = grammar.matcher(ends)
        assert not {0, 3} & set(allowed(matcher, grammar.words))  # nothing has been said yet
        matcher.accept(tokenizer.encode("a")[0])
        assert {0, 3} & set(allowed(matcher, grammar.words)) == expected
        assert not matcher.finished


def test_each_matcher_goes_its_own_way_and_a_wrong_token_is_an_error(compiler, tokenizer):
    grammar = compiler.compile(StructuredOutputsParams(choice=["ab", "ac"]))
    one, other = grammar.matcher((0,)), grammar.matcher((0,))
    a, b, c = (tokenizer.encode(x)[0] for x in "abc")
    for token in (a, b):
        one.accept(token)
    assert one.finished and not other.finished
    other.accept(a)
    assert set(allowed(other, grammar.words)) == {b, c}
    with pytest.raises(GrammarError, match="structured_outputs: llguidance gave up"):
        other.accept(a)
    with pytest.raises(GrammarError, match="gave up"):
        other.fill(np.zeros(grammar.words, np.int32))


def test_a_grammar_that_was_asked_for_lately_is_kept(compiler):
    first = compiler.compile(StructuredOutputsParams(regex="a{17}"))
    for i in range(KEPT_GRAMMARS - 1):
        compiler.compile(StructuredOutputsParams(regex=f"b{{{i + 1}}}"))
    assert compiler.compile(StructuredOutputsParams(regex="a{17}")) is first
    for i in range(KEPT_GRAMMARS):
        compiler.compile(StructuredOutputsParams(regex=f"c{{{i + 1}}}"))
    assert compiler.compile(StructuredOutputsParams(regex="a{17}")) is not first
    assert compiler.statistics() == {"kept_grammars": KEPT_GRAMMARS}


class Slow:
    """A vocabulary that waits before it compiles, and counts."""

    def __init__(self, inner, refuses=False):
        self.inner, self.refuses = inner, refuses
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.compiled = []

    def compile(self, params):
        self.compiled.append(params.source)
        self.begun.set()
        assert self.go_on.wait(30)
        if self.refuses:
            raise GrammarError("refused")
        return self.inner.compile(params)


class Pending(dict):
    """Counts who has asked whether somebody compiles a grammar already."""

    def __init__(self):
        self.asked = threading.Semaphore(0)

    def get(self, key):
        found = super().get(key)
        self.asked.release()
        return found


@pytest.fixture
def slow(tokenizer, monkeypatch):
    """A compiler that keeps `a` and whose next grammar takes as long as the test wants, and its vocabulary."""
    compiler = GrammarCompiler(tokenizer, PADDED, (0,))
    compiler.compile(StructuredOutputsParams(regex="a"))
    slow = Slow(compiler._vocabulary)
    monkeypatch.setattr(compiler, "_vocabulary", slow)
    monkeypatch.setattr(compiler, "_pending", Pending())
    yield compiler, slow
    slow.go_on.set()


def test_who_wants_a_kept_grammar_does_not_wait_for_one_that_compiles(slow):
    compiler, vocabulary = slow
    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(compiler.compile, StructuredOutputsParams(regex="b"))
        assert vocabulary.begun.wait(30)
        kept = pool.submit(compiler.compile, StructuredOutputsParams(regex="a"))
        try:
            assert kept.result(30) and not long.done()
        finally:
            vocabulary.go_on.set()
        assert long.result(30)


@pytest.mark.parametrize("refuses", [False, True])
def test_equal_grammars_are_compiled_once_and_others_one_at_a_time(slow, refuses):
    compiler, vocabulary = slow
    vocabulary.refuses = refuses
    with ThreadPoolExecutor(6) as pool:
        same = [pool.submit(compiler.compile, StructuredOutputsParams(regex="b")) for _ in range(5)]
        assert vocabulary.begun.wait(30)
        other = pool.submit(compiler.compile, StructuredOutputsParams(regex="c"))
        for _ in range(6):
            assert compiler._pending.asked.acquire(timeout=30)
        assert vocabulary.compiled == ["b"] and not any(future.done() for future in [other, *same])
        vocabulary.go_on.set()
        errors = [future.exception(30) for future in same]
        assert other.exception(30) is None or refuses
    assert vocabulary.compiled == ["b", "c"]
    if refuses:
        assert all(str(error) == "refused" and error.parameter == "structured_outputs" for error in errors)
        assert len(set(map(id, errors))) == 5
    else:
        assert len({id(future.result()) for future in same}) == 1


def test_without_llguidance_a_grammar_is_refused_with_the_way_to_it(tokenizer, monkeypatch):
    monkeypatch.delitem(sys.modules, "orca_jax.grammar.vocabulary", raising=False)
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(RequestError, match=r"pip install 'orca-jax\[grammar\]'"):
        GrammarCompiler(tokenizer, PADDED, (0,)).compile(StructuredOutputsParams(regex="a"))
