"""Runs the step's two halves, with the masks filled in between."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from orca_jax.core.errors import EngineError
from orca_jax.core.grammar import Masks
from orca_jax.execution.buckets import Bucket
from orca_jax.execution.constraints import Constraints
from orca_jax.execution.outline import StepOutline
from orca_jax.execution.packing import columns_of
from orca_jax.execution.programs import Program
from orca_jax.execution.step import StepOutput

ALL = np.int32(-1)  # every bit


class MaskedStep:
    """The compiled halves: the model for each of `buckets`, the choice for each number of rows among them."""

    def __init__(self, outline: StepOutline):
        self.outline = outline
        self.buckets = outline.options.half_buckets
        self.rows = tuple(sorted({bucket.rows for bucket in self.buckets}))
        self.words = -(-outline.config.vocab_size // 32)
        self._models: dict[Bucket, jax.stages.Compiled] = {}
        self._choices: dict[int, jax.stages.Compiled] = {}

    def programs(self) -> list[Program]:
        o = self.outline
        return [*(o.model_half(bucket) for bucket in self.buckets), *(o.sampling_half(rows) for rows in self.rows)]

    def use(self, compiled: Iterable[jax.stages.Compiled]) -> None:
        """Take what `programs` were compiled to, in their order."""
        compiled = list(compiled)
        self._models = dict(zip(self.buckets, compiled[: len(self.buckets)], strict=True))
        self._choices = dict(zip(self.rows, compiled[len(self.buckets) :], strict=True))

    def run(
        self, bucket: Bucket, memory: tuple[Any, list[Array], Array, Constraints], packed: np.ndarray,
        mask: Callable[[], np.ndarray],
    ) -> tuple[list[Array], Array, StepOutput]:  # fmt: skip
        """One iteration, as the whole step would run it. `mask` is called while the model runs."""
        if bucket not in self._models:
            raise EngineError("the executor has no programs for masks (structured_outputs), or is closed")
        parameters, cache, history, constraints = memory
        cache, history, hidden, logits = self._models[bucket](parameters, cache, history, packed)
        columns = columns_of(packed, bucket, self.outline.options.pages_per_row)
        history, output = self._choices[bucket.rows](logits, history, constraints, columns, mask())
        return cache, history, StepOutput(output, hidden)

    def lines(self, bucket: Bucket, order: list[int], masks: Masks) -> np.ndarray:
        """The masks as the device wants them, `i32[R, W]` in packed order, freshly allocated: it may read them later."""
        lines = np.full((bucket.rows, self.words), ALL)
        for line, i in enumerate(order):
            if i in masks:
                lines[line] = masks[i]
        return lines

    @property
    def num_programs(self) -> int:
        return len(self._models) + len(self._choices)

    def close(self) -> None:
        self._models, self._choices = {}, {}
