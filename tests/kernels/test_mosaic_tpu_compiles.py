"""The TPU kernels, compiled by the real compiler for TPUs that are only described: they lower, fit, and copy no cache."""

import dataclasses
import itertools

import described
import jax
import jax.numpy as jnp
import pytest

from pallas_kernels.ragged_paged_attention import (
    Heads,
    pages_dtype,
    pages_shape,
    prepare,
    ragged_paged_attention,
    resolve,
    write_kv,
)
from pallas_kernels.ragged_paged_attention.mosaic_tpu.tuning import TABLE

pytestmark = pytest.mark.skipif(described.missing("v5e") is not None, reason=str(described.missing("v5e")))

MIB = 2**20
CACHE_TOKENS = 2**18
HEADS = {
    "llama-8b": Heads(32, 8, 128),
    "llama-70b/8": Heads(8, 1, 128),
    "gpt-13b": Heads(40, 40, 128),
    "gpt-175b/8": Heads(12, 12, 128),
    "demo": Heads(9, 3, 64),
    "qwen": Heads(16, 8, 128),
}


@dataclasses.dataclass(frozen=True)
class Shape:
    """One program: a step's write and attention in one layer."""

    heads: Heads
    page_size: int = 32
    tokens: int = 256
    rows: int = 128
    dtype: str = "bfloat16"
    options: tuple[tuple[str, float], ...] = ()
    layers: int = 1


def compiled(generation: str, shape: Shape):
    """The program of a shape, and the bytes of its cache."""
    heads, options, num_pages = shape.heads, dict(shape.options), CACHE_TOKENS // shape.page_size
    kept = {name: options[name] for name in ("sliding_window", "uniform") if name in options}
    array = lambda *sizes, dtype=jnp.int32: described.array(generation, sizes, dtype)
    q, k = (array(shape.tokens, n, heads.dim, dtype=shape.dtype) for n in (heads.num_q, heads.num_kv))
    table = (array(shape.rows), array(shape.rows, 128), array(shape.rows + 1), array(1))

    def step(pages, q, k, v, layer, *table):
        metadata = prepare(*table, num_tokens=shape.tokens, page_size=shape.page_size, heads=heads, **kept)
        if shape.layers > 1:
            metadata = metadata.offset_pages(layer * (num_pages // shape.layers))
        pages = write_kv(pages, k, v, *table, metadata=metadata)
        return ragged_paged_attention(q, pages, *table, sm_scale=heads.dim**-0.5, metadata=metadata, **options), pages

    with jax.set_mesh(described.mesh(generation)):
        kept["dtype"] = pages_dtype(None, shape.dtype)
        assert resolve() == "mosaic_tpu"
        pages = pages_shape(None, num_pages, shape.page_size, heads.num_kv, heads.dim)
        cache = array(*pages, dtype=kept["dtype"])
        program = jax.jit(step, donate_argnums=0).lower(cache, q, k, k, array(), *table).compile()
    return program, cache.size * cache.dtype.itemsize


def check(generation: str, shape: Shape) -> None:
    program, cache = compiled(generation, shape)
    memory = program.memory_analysis()
    assert program.as_text().count('custom_call_target="tpu_custom_call"') == 2
    assert memory.alias_size_in_bytes == cache  # nothing is padded, nothing is copied
    batch = shape.tokens * (shape.heads.num_q + shape.heads.num_kv) * max(128, shape.heads.dim) * 4
    assert memory.temp_size_in_bytes < 16 * MIB + 8 * batch < 16 * MIB + cache


DEFAULT = [
    ("v5e", Shape(HEADS["llama-8b"], page_size=16)),
    ("v6e", Shape(HEADS["llama-8b"])),
    ("v5p", Shape(HEADS["llama-8b"], options=(("sliding_window", 1000), ("soft_cap", 50.0)))),
    ("tpu7x", Shape(HEADS["llama-8b"], layers=4)),
    ("v5e", Shape(HEADS["gpt-13b"])),
    ("v6e", Shape(HEADS["llama-70b/8"], rows=256)),
    ("tpu7x", Shape(HEADS["gpt-175b/8"], tokens=16, rows=16)),
    ("v6e", Shape(HEADS["demo"], page_size=128)),
    ("v5e", Shape(HEADS["qwen"], options=(("uniform", True),))),
    ("v6e", Shape(Heads(16, 8, 256), tokens=64)),
    ("v5e", Shape(Heads(16, 4, 96), dtype="float16", tokens=64)),
    ("tpu7x", Shape(Heads(16, 4, 80), dtype="float32", tokens=64)),
    ("v6e", Shape(Heads(96, 96, 128), dtype="float32", tokens=64, rows=64)),
]
MATRIX = [
    pytest.param(
        generation, Shape(heads, page_size, tokens, rows), id=f"{generation}-{name}-S{page_size}-T{tokens}-R{rows}"
    )
    for (i, generation), (j, (name, heads)), (k, page_size) in itertools.product(
        enumerate(described.TPUS), enumerate(HEADS.items()), enumerate((16, 32, 128))
    )
    for tokens, rows in [((16, 16), (256, 128), (2048, 256))[(i + j + k) % 3]]
]
"""A third of all combinations, in which there is every pair of page size, heads, generation and bucket."""


@pytest.mark.parametrize(("generation", "shape"), DEFAULT, ids=str)
def test_compiles_and_copies_no_cache(generation, shape):
    check(generation, shape)


@pytest.mark.full
@pytest.mark.parametrize(("generation", "shape"), MATRIX)
def test_the_whole_matrix_compiles(generation, shape):
    check(generation, shape)


@pytest.mark.full
def test_every_entry_of_the_tuning_table_compiles():
    for generation, dim, group, page_size in TABLE:
        check(generation, Shape(Heads(8 * group, 8, dim), page_size))
