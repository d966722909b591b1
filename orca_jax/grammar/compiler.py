"""Compiled grammars, kept and shared: what the door asks. Imports llguidance when the first grammar comes."""

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from orca_jax.core.errors import GrammarError, RequestError
from orca_jax.core.grammar import Grammar
from orca_jax.core.structured_outputs import NAME, StructuredOutputsParams
from orca_jax.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from orca_jax.grammar.vocabulary import Vocabulary

KEPT_GRAMMARS = 64


class GrammarCompiler:
    """Compiles for one tokenizer and a model with `vocab_size` rows; ids without a token are never allowed.

    Keeps the last few results. Threads may share it: one compiles at a time, so that a flood of grammars takes one core.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_ids: tuple[int, ...]):
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_ids = eos_ids
        self._lock = threading.Lock()
        self._vocabulary: Vocabulary | None = None
        self._kept: OrderedDict[tuple[str, str], Grammar] = OrderedDict()

    def compile(self, params: StructuredOutputsParams) -> Grammar:
        """The grammar that `params` describe. Raises RequestError for `structured_outputs`."""
        key = (params.kind, params.source)
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                try:
                    found = self._read_vocabulary().compile(params)
                except GrammarError as error:
                    raise RequestError(str(error), NAME) from error
                if len(self._kept) >= KEPT_GRAMMARS:
                    self._kept.popitem(last=False)
            self._kept[key] = found
            self._kept.move_to_end(key)
            return found

    def prepare(self) -> None:
        """Read the vocabulary now instead of with the first grammar: a second for a large one. Raises RequestError."""
        with self._lock:
            self._read_vocabulary()

    def statistics(self) -> dict[str, int]:
        return {"kept_grammars": len(self._kept)}

    def _read_vocabulary(self) -> "Vocabulary":
        if self._vocabulary is None:
            try:
                from orca_jax.grammar.vocabulary import Vocabulary
            except ImportError as error:
                raise RequestError(
                    f"{NAME} need the package llguidance, which is not installed (pip install 'orca-jax[grammar]').",
                    NAME,
                ) from error
            self._vocabulary = Vocabulary(self._tokenizer.backend.to_str(), self._vocab_size, self._eos_ids)
        return self._vocabulary
