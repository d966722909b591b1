"""What sizes an executor's memory and its list of programs."""

from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from orca_jax.execution.buckets import Bucket
from orca_jax.execution.forward import AttentionOptions


@dataclass(frozen=True, slots=True)
class ExecutorOptions:
    """Everything that sizes the device's memory and the list of programs. `max_model_len` is in tokens."""

    buckets: tuple[Bucket, ...]
    num_slots: int
    num_pages: int
    max_model_len: int
    attention: AttentionOptions
    kv_dtype: Any

    @property
    def pages_per_row(self) -> int:
        return -(-self.max_model_len // self.attention.page_size)

    @property
    def mesh(self) -> Mesh | None:
        """The devices that share the step; None for the default device alone."""
        return self.attention.mesh
