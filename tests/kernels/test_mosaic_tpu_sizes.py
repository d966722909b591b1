"""Sizes of the TPU kernel's blocks: what they take on the chip is bounded, whatever heads and pages are."""

import itertools

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels.ragged_paged_attention import Heads, pages_shape, ragged_paged_attention
from pallas_kernels.ragged_paged_attention.mosaic_tpu.pages import LANES, pieces
from pallas_kernels.ragged_paged_attention.mosaic_tpu.tuning import FETCH_BUDGET, choose, rule

WIDTHS = list(itertools.product((1, 3, 8, 40, 96), (64, 128, 256), (16, 128, 256)))


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("generation", ["v5e", "v6e", "tpu7x", "one of tomorrow"])
def test_two_fetches_stay_in_their_budget_unless_a_page_is_larger(generation: str, itemsize: int):
    for heads, dim, page_size in WIDTHS:
        tuning = rule(generation, Heads(2 * heads, heads, dim), page_size, itemsize)
        tuning.check(page_size)
        token = 2 * itemsize * (heads | 1) * pieces(dim) * LANES
        assert tuning.fetch == page_size or 2 * tuning.fetch * token <= FETCH_BUDGET


def test_wider_types_are_fetched_in_smaller_lots():
    heads = Heads(96, 96, 128)
    assert choose("v6e", heads, 16, 4).fetch == choose("v6e", heads, 16, 2).fetch // 2


@pytest.mark.parametrize(
    ("dtype", "page_size", "fits"), [("float32", 256, False), ("bfloat16", 256, True), ("float32", 128, True)]
)
def test_a_page_that_does_not_fit_on_the_chip_is_refused(dtype: str, page_size: int, fits: bool):
    array = lambda *shape, dtype="int32": jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    q, pages = array(4, 96, 128, dtype=dtype), array(*pages_shape("mosaic_tpu", 3, page_size, 96, 128), dtype=dtype)
    table = array(4), array(4, 2), array(5), array(1)
    call = lambda q, pages, *table: ragged_paged_attention(
        q, pages, *table, sm_scale=1.0, implementation="mosaic_tpu", interpret=True
    )
    if fits:
        assert jax.eval_shape(call, q, pages, *table).shape == q.shape
        return
    with pytest.raises(
        ValueError, match=r"buffers take 5\d MiB, more than 48, with 96 K/V heads of float32 in pages of 256"
    ):
        jax.eval_shape(call, q, pages, *table)
