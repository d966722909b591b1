"""From what a client wrote to a grammar over a vocabulary, or one clear refusal, in bounded time and memory."""

import json

import llguidance
import numpy as np

from orca_jax.core.errors import GrammarError, RequestError
from orca_jax.core.structured_outputs import NAME, StructuredOutputsParams
from orca_jax.grammar.json_schema import check_schema
from orca_jax.grammar.lark import prepared_lark
from orca_jax.grammar.matcher import CompiledGrammar, first_line, guarded
from orca_jax.grammar.regex import check_regex

ANY_OBJECT = '{"type":"object"}'


class Vocabulary:
    """A model's tokens as llguidance knows them. `tokenizer` is the text of a tokenizer.json.

    `vocab_size` may be larger than the tokenizer's: what is beyond has no text, and no grammar allows it.
    Raises GrammarError where llguidance cannot read the tokenizer.
    """

    def __init__(self, tokenizer: str, vocab_size: int, eos_ids: tuple[int, ...]):
        self._eos_ids = eos_ids
        ends = list(eos_ids) or None
        self._tokens = guarded(lambda: llguidance.LLTokenizer(tokenizer, n_vocab=vocab_size, eos_token=ends))

    def compile(self, params: StructuredOutputsParams) -> CompiledGrammar:
        """Raises GrammarError or RequestError for a grammar that is refused, or admits nothing."""
        source, name = source_of(params), f"{NAME}.{params.kind}"
        start = guarded(lambda: llguidance.LLMatcher(self._tokens, source, log_level=0, limits=bounds()))
        if start.is_error():
            raise GrammarError(f"{name} is refused: {first_line(start.get_error())}")
        compiled = CompiledGrammar(start, self._tokens)
        first = np.zeros(compiled.words, np.int32)
        try:
            compiled.matcher(self._eos_ids).fill(first)
        except GrammarError as error:
            raise RequestError(f"{name} admits no text, or is too complex ({error}).", NAME) from error
        if not first.any():
            raise GrammarError(f"{name} admits no text at all.")
        return compiled


def source_of(params: StructuredOutputsParams) -> str:
    """What llguidance compiles, for what was asked. Raises RequestError for what must not get that far."""
    source, lark = params.source, llguidance.LLMatcher.grammar_from_lark
    if params.kind == "json":
        check_schema(json.loads(source))
        return from_schema(source)
    if params.kind == "json_object":
        return from_schema(ANY_OBJECT)
    if params.kind == "regex":
        check_regex(source, f"{NAME}.regex")
        return guarded(lambda: llguidance.LLMatcher.grammar_from_regex(source))
    if params.kind == "choice":
        pattern = "|".join(map(literally, json.loads(source)))
        return guarded(lambda: llguidance.LLMatcher.grammar_from_regex(pattern))
    prepared = prepared_lark(source)
    return guarded(lambda: lark(prepared))


def from_schema(schema: str) -> str:
    """Compact JSON only: a model that may write spaces may never come to the end."""
    return guarded(
        lambda: llguidance.LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False})
    )


def literally(text: str) -> str:
    """A regular expression for this text and no other."""
    plain = [c if c.isascii() and c.isalnum() else f"\\x{{{ord(c):X}}}" for c in text]
    return "".join(plain)


def bounds() -> llguidance.LLParserLimits:
    """What one grammar may cost: at its worst about a second to compile, and some tens of milliseconds for a token."""
    return llguidance.LLParserLimits(
        initial_lexer_fuel=500_000, step_lexer_fuel=200_000, step_max_items=20_000, max_items_in_row=1_000,
        max_lexer_states=50_000, max_grammar_size=100_000, verbose_errors=False,
    )  # fmt: skip
