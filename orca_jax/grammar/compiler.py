"""From what a client wrote to a grammar over the model's vocabulary, or one clear refusal, in bounded time and memory."""

import json
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from orca_jax.core.errors import GrammarError, RequestError
from orca_jax.core.grammar import Grammar
from orca_jax.core.structured_outputs import NAME, StructuredOutputsParams
from orca_jax.grammar.json_schema import check_schema
from orca_jax.grammar.lark import prepared_lark
from orca_jax.grammar.regex import check_regex
from orca_jax.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import llguidance

KEPT_GRAMMARS = 64
JSON_OPTIONS = {"whitespace_flexible": False}  # a model that may write spaces may never come to the end
LIMITS = {
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 20_000,
    "max_items_in_row": 1_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 100_000,
    "verbose_errors": False,
}
MISSING = (
    "structured_outputs need the package llguidance, which is not installed (pip install 'orca-jax[grammar]')."
)  # fmt: skip


class GrammarCompiler:
    """Compiles for one tokenizer and a model with `vocab_size` rows; ids without a token are never allowed.

    Keeps the last few results. Threads may share it: one compiles at a time, so that a flood of grammars takes one core.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_ids: tuple[int, ...]):
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_ids = eos_ids
        self._lock = threading.Lock()
        self._vocabulary: llguidance.LLTokenizer | None = None
        self._kept: OrderedDict[tuple[str, str], Grammar] = OrderedDict()

    def compile(self, params: StructuredOutputsParams) -> Grammar:
        """The grammar that `params` describe. Raises RequestError for `structured_outputs`."""
        key = (params.kind, params.source)
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                found = self._compile(params)
                if len(self._kept) >= KEPT_GRAMMARS:
                    self._kept.popitem(last=False)
            self._kept[key] = found
            self._kept.move_to_end(key)
            return found

    def statistics(self) -> dict[str, int]:
        return {"kept_grammars": len(self._kept)}

    def _compile(self, params: StructuredOutputsParams) -> Grammar:
        try:
            import llguidance
        except ImportError as error:
            raise RequestError(MISSING, NAME) from error
        from orca_jax.grammar.matcher import CompiledGrammar, first_line, guarded

        try:
            source = source_of(params)
            vocabulary = self._vocabulary_of()
            limits = llguidance.LLParserLimits(**LIMITS)
            start = guarded(lambda: llguidance.LLMatcher(vocabulary, source, log_level=0, limits=limits))
            if start.is_error():
                raise GrammarError(f"{NAME}.{params.kind} is refused: {first_line(start.get_error())}")
            compiled = CompiledGrammar(start, vocabulary)
            first = np.zeros(compiled.words, np.int32)
            compiled.matcher(self._eos_ids).fill(first)
        except GrammarError as error:
            raise RequestError(str(error), NAME) from error
        if not first.any():
            raise RequestError(f"{NAME}.{params.kind} admits no text at all.", NAME)
        return compiled

    def _vocabulary_of(self) -> "llguidance.LLTokenizer":
        """The tokenizer as llguidance wants it: read when the first grammar comes, which takes a second for a large one."""
        import llguidance

        from orca_jax.grammar.matcher import guarded

        if self._vocabulary is None:
            text = self._tokenizer.backend.to_str()
            ends = list(self._eos_ids) or None
            self._vocabulary = guarded(
                lambda: llguidance.LLTokenizer(text, n_vocab=self._vocab_size, eos_token=ends)
            )  # fmt: skip
        return self._vocabulary


def source_of(params: StructuredOutputsParams) -> str:
    """What llguidance compiles, for what was asked. Raises RequestError for what must not get that far."""
    import llguidance

    from orca_jax.grammar.matcher import guarded

    matcher, source = llguidance.LLMatcher, params.source
    if params.kind == "json":
        check_schema(json.loads(source))
        return guarded(lambda: matcher.grammar_from_json_schema(source, overrides=JSON_OPTIONS))
    if params.kind == "json_object":
        return guarded(lambda: matcher.grammar_from_json_schema('{"type":"object"}', overrides=JSON_OPTIONS))
    if params.kind == "regex":
        check_regex(source, f"{NAME}.regex")
        return guarded(lambda: matcher.grammar_from_regex(source))
    if params.kind == "choice":
        return guarded(lambda: matcher.grammar_from_lark(f"start: {' | '.join(map(quoted, json.loads(source)))}"))
    lark = prepared_lark(source)
    return guarded(lambda: matcher.grammar_from_lark(lark))


def quoted(text: str) -> str:
    """A Lark string that stands for exactly this text."""
    return json.dumps(text, ensure_ascii=False)
