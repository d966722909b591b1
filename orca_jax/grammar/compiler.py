"""Compiled grammars, kept and shared: what the door asks. Imports llguidance when the first grammar comes."""

import threading
from collections import OrderedDict
from concurrent.futures import Future
from typing import TYPE_CHECKING

from orca_jax.core.errors import GrammarError, RequestError
from orca_jax.core.grammar import Grammar
from orca_jax.core.structured_outputs import NAME, StructuredOutputsParams
from orca_jax.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from orca_jax.grammar.vocabulary import Vocabulary

KEPT_GRAMMARS = 64
Key = tuple[str, str]
"""A grammar's kind and source."""


class GrammarCompiler:
    """Compiles for one tokenizer and a model with `vocab_size` rows; ids without a token are never allowed.

    Keeps the last few results. Threads may share it: a grammar that is kept is had at once, one compiles at a time, so
    that a flood of grammars takes one core, and those who want the same one wait for the same one. A server that must
    not wait for the grammars of others has a thread of its own for calls that bring one.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_ids: tuple[int, ...]):
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_ids = eos_ids
        self._lock = threading.Lock()  # of the two tables, never for long
        self._turn = threading.Lock()  # of the vocabulary and whoever compiles
        self._vocabulary: Vocabulary | None = None
        self._kept: OrderedDict[Key, Grammar] = OrderedDict()
        self._pending: dict[Key, Future[Grammar]] = {}

    def compile(self, params: StructuredOutputsParams) -> Grammar:
        """The grammar that `params` describe, kept or compiled. Raises RequestError for `structured_outputs`."""
        key = (params.kind, params.source)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            pending = self._pending.get(key)
            mine = pending is None
            if pending is None:
                pending = self._pending[key] = Future()
        if mine:
            self._settle(key, params, pending)
        try:
            return pending.result()
        except RequestError as error:  # one for each who waited: a traceback grows wherever its error is raised
            raise RequestError(str(error), error.parameter) from error

    def prepare(self) -> None:
        """Read the vocabulary now instead of with the first grammar: a second for a large one. Raises RequestError."""
        with self._turn:
            self._read_vocabulary()

    def statistics(self) -> dict[str, int]:
        return {"kept_grammars": len(self._kept)}

    def _settle(self, key: Key, params: StructuredOutputsParams, pending: Future[Grammar]) -> None:
        """Compile when it is our turn, and tell all who wait for it, whatever happens."""
        try:
            with self._turn:
                found = self._compile(params)
        except BaseException as error:  # noqa: BLE001  # it is raised to all who wait, ourselves among them
            with self._lock:
                del self._pending[key]
            pending.set_exception(error)
            return
        with self._lock:
            del self._pending[key]
            self._kept[key] = found
            if len(self._kept) > KEPT_GRAMMARS:
                self._kept.popitem(last=False)
        pending.set_result(found)

    def _compile(self, params: StructuredOutputsParams) -> Grammar:
        try:
            return self._read_vocabulary().compile(params)
        except GrammarError as error:
            raise RequestError(str(error), NAME) from error

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
