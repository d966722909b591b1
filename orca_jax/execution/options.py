"""What sizes an executor's memory and its list of programs."""

from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from orca_jax.execution.buckets import Bucket
from orca_jax.execution.forward import AttentionOptions


@dataclass(frozen=True, slots=True)
class ExecutorOptions:
    """Everything that sizes the device's memory and the list of programs. `max_model_len` is in tokens.

    `half_buckets` are those in which the step is compiled in halves, too, for iterations with rows that are held to a
    grammar; where there are none, such rows are refused.
    """

    buckets: tuple[Bucket, ...]
    num_slots: int
    num_pages: int
    max_model_len: int
    attention: AttentionOptions
    kv_dtype: Any
    half_buckets: tuple[Bucket, ...] = ()

    @property
    def whole_buckets(self) -> tuple[Bucket, ...]:
        """The shapes for which the step is compiled in one piece."""
        return () if self.always_in_halves else self.buckets

    @property
    def always_in_halves(self) -> bool:
        """Where no token may depend on its company, it may not depend either on whether others have a grammar: one
        program rounds as it likes, and two programs as they like.
        """
        return bool(self.half_buckets) and self.attention.uniform

    @property
    def pages_per_row(self) -> int:
        return -(-self.max_model_len // self.attention.page_size)

    @property
    def mesh(self) -> Mesh | None:
        """The devices that share the step; None for the default device alone."""
        return self.attention.mesh
