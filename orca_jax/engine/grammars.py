"""The answers that are held to a form: what each may say next, and how far it has got."""

from collections.abc import Callable
from functools import partial

import numpy as np

from orca_jax.core.errors import GrammarError
from orca_jax.core.grammar import Masks, Matcher
from orca_jax.core.sequence import Sequence
from orca_jax.scheduling.scheduler import Batch


class Grammars:
    """Fills masks and follows tokens. A grammar that fails is remembered in `failed`, and nobody else is touched."""

    def __init__(self, max_rows: int):
        self._max_rows = max_rows
        self._lines = np.zeros((0, 0), np.int32)  # allocated once, for the first grammar, and lent with every `masks`
        self.failed: dict[str, str] = {}
        """Request id to what its grammar said."""

    def masks(self, batch: Batch) -> Callable[[], Masks] | None:
        """What gives the masks of the batch's rows that need one; None where none does.

        They are views that hold until the next batch's are asked for.
        """
        rows = [
            i for i, (row, sequence) in enumerate(zip(batch.plan.rows, batch.sequences, strict=True))
            if row.samples and sequence.request.grammar is not None
        ]  # fmt: skip
        return partial(self._fill, batch, rows) if rows else None

    def follow(self, sequence: Sequence, token: int) -> bool:
        """Note a token that was kept. Returns whether the answer is complete, with nothing that could be added."""
        if sequence.matcher is None:
            return False
        try:
            sequence.matcher.accept(token)
        except GrammarError as error:
            self.failed[sequence.request.request_id] = str(error)
            return False
        return sequence.matcher.finished

    def _fill(self, batch: Batch, rows: list[int]) -> Masks:
        masks = {}
        for number, i in enumerate(rows):
            sequence = batch.sequences[i]
            try:
                matcher = self._matcher_of(sequence)
                line = self._lines[number]
                matcher.fill(line)
            except GrammarError as error:
                self.failed[sequence.request.request_id] = str(error)  # the row runs free, and nobody takes its token
                continue
            masks[i] = line
        return masks

    def _matcher_of(self, sequence: Sequence) -> Matcher:
        grammar = sequence.request.grammar
        if grammar is None:
            raise GrammarError(f"request {sequence.request.request_id} has no grammar")
        if self._lines.shape[1] != grammar.words:
            self._lines = np.zeros((self._max_rows, grammar.words), np.int32)
        if sequence.matcher is None:
            sequence.matcher = grammar.matcher(sequence.request.eos_ids)
        return sequence.matcher
