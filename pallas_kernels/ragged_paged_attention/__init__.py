"""Attention of a ragged batch over a paged K/V cache: one call serves whole prompts, chunks and single tokens."""

from pallas_kernels.ragged_paged_attention.api import (
    IMPLEMENTATIONS,
    Heads,
    allocate_pages,
    from_canonical,
    heads_axis,
    pages_dtype,
    pages_shape,
    passed_over,
    prepare,
    ragged_paged_attention,
    resolve,
    to_canonical,
    write_kv,
)
from pallas_kernels.ragged_paged_attention.implementation import Metadata

__all__ = [
    "IMPLEMENTATIONS",
    "Heads",
    "Metadata",
    "allocate_pages",
    "from_canonical",
    "heads_axis",
    "pages_dtype",
    "pages_shape",
    "passed_over",
    "prepare",
    "ragged_paged_attention",
    "resolve",
    "to_canonical",
    "write_kv",
]
