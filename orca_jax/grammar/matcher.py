"""A compiled grammar and the matchers that follow it, over llguidance's."""

from collections.abc import Callable
from typing import TypeVar

import llguidance
import numpy as np

from orca_jax.core.errors import GrammarError
from orca_jax.text.tokenizer_files import quietly

T = TypeVar("T")


class CompiledGrammar:
    """What a source was compiled to over one vocabulary. Never changes; each answer gets a copy to follow."""

    def __init__(self, start: llguidance.LLMatcher, tokenizer: llguidance.LLTokenizer):
        self._start = start
        self._ends = tuple(tokenizer.eos_tokens)
        self._words = -(-tokenizer.vocab_size // 32)

    @property
    def words(self) -> int:
        return self._words

    def matcher(self, eos_ids: tuple[int, ...]) -> "TokenMatcher":
        copy = guarded(self._start.deep_copy)
        return TokenMatcher(copy, barred=tuple(token for token in self._ends if token not in eos_ids))


class TokenMatcher:
    """Implements `core.grammar.Matcher`. `barred` are ends of the vocabulary that do not end this answer."""

    def __init__(self, inner: llguidance.LLMatcher, barred: tuple[int, ...]):
        self._inner = inner
        self._barred = barred

    def fill(self, line: np.ndarray) -> None:
        """See `core.grammar.Matcher`. Where nothing but a barred end is left, that end stays: the answer is over."""
        guarded(lambda: self._inner.unsafe_compute_mask_ptr(line.ctypes.data, line.nbytes))
        self._check()
        for token in self._barred:
            line[token // 32] &= ~np.int32(np.uint32(1 << token % 32).view(np.int32))
        if self._barred and not line.any():
            token = self._barred[0]
            line[token // 32] |= np.uint32(1 << token % 32).view(np.int32)

    def accept(self, token: int) -> None:
        if not guarded(lambda: self._inner.consume_token(token)):
            self._check()
            raise GrammarError(f"structured_outputs: token {token} does not continue the grammar")

    @property
    def finished(self) -> bool:
        return guarded(self._inner.is_stopped)

    def _check(self) -> None:
        if self._inner.is_error():
            raise GrammarError(f"structured_outputs: llguidance gave up: {first_line(self._inner.get_error())}")


def guarded(call: Callable[[], T]) -> T:
    """Run a call of llguidance; whatever it raises, Rust panics included, becomes a GrammarError."""
    return quietly(call, "structured_outputs: llguidance failed", GrammarError)


def first_line(text: str) -> str:
    """What fits into a message, of what may be long: it quotes the grammar."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no reason given"]
    cause = next(
        (f" {line}" for line in lines[1:] if line.startswith("error: ")), ""
    )  # of a regular expression's parser
    return (lines[0][:150] + cause)[:300]
