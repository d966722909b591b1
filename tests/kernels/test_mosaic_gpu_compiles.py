"""The Hopper kernels through the real compiler, for cards that are only described: nothing spills, the cache stays in place.

The assembler's own report is read, so register use is a fact here though there is no card.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import pytest
from described import mesh, missing
from jax.sharding import NamedSharding, PartitionSpec

from pallas_kernels.ragged_paged_attention import (
    Heads,
    pages_shape,
    prepare,
    ragged_paged_attention,
    resolve,
    write_kv,
)
from pallas_kernels.ragged_paged_attention.target import current_target

pytestmark = pytest.mark.skipif(missing("h200") is not None, reason=str(missing("h200")))
TOKENS, ROWS, PAGES, PER_ROW = 256, 64, 1000, 64


def operands(heads, page_size, where, *, dtype=jnp.bfloat16):
    """What a call takes, described: pages, q, k and the row table."""
    array = lambda shape, kind=jnp.int32: jax.ShapeDtypeStruct(shape, kind, sharding=where)
    pages = array(pages_shape(None, PAGES, page_size, heads.num_kv, heads.dim), dtype)
    q, k = (array((TOKENS, n, heads.dim), dtype) for n in (heads.num_q, heads.num_kv))
    return pages, q, k, tuple(map(array, ((ROWS,), (ROWS, PER_ROW), (ROWS + 1,), (1,))))


def compile_attention(heads, page_size, *, card="h200", dtype=jnp.bfloat16, window=None, cap=None, uniform=False):
    """The kernels alone: work lists are given. The implementation is what the card gets by itself."""
    where = NamedSharding(mesh(card), PartitionSpec())
    options = dict(sliding_window=window, uniform=uniform)
    with jax.set_mesh(mesh(card)):
        pages, q, _, table = operands(heads, page_size, where, dtype=dtype)
        lists = functools.partial(prepare, num_tokens=TOKENS, page_size=page_size, heads=heads, **options)
        lists = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), jax.eval_shape(lists, *table)
        )
        attend = functools.partial(ragged_paged_attention, sm_scale=0.1, soft_cap=cap, **options)
        return jax.jit(lambda q, pages, table, lists: attend(q, pages, *table, metadata=lists)).lower(
            q, pages, table, lists
        ).compile()  # fmt: skip


LLAMA_8B, LLAMA_70B_OF_8 = Heads(32, 8, 128), Heads(8, 1, 128)
GPT_13B, GPT_175B_OF_8 = Heads(40, 40, 128), Heads(12, 12, 128)
SMALL, WIDE = Heads(9, 3, 64), Heads(16, 4, 256)


@pytest.mark.parametrize(
    ("heads", "page_size", "options"),
    [
        (LLAMA_8B, 16, {}),
        (LLAMA_8B, 64, dict(card="h100")),
        (LLAMA_8B, 128, dict(window=4096, cap=50.0)),
        (LLAMA_70B_OF_8, 16, dict(window=1024)),
        (LLAMA_70B_OF_8, 128, dict(uniform=True)),
        (GPT_13B, 64, {}),
        (GPT_175B_OF_8, 16, dict(dtype=jnp.float16)),
        (SMALL, 16, {}),
        (SMALL, 128, dict(cap=30.0)),
        (WIDE, 16, dict(window=1024, cap=50.0)),
        (WIDE, 64, {}),
        (WIDE, 24, {}),  # pages that are no power of two: eight copies a block, and divisions
        (Heads(71, 1, 64), 16, {}),
    ],
)
def test_kernels_compile_and_nothing_spills(heads, page_size, options, capfd, monkeypatch):
    monkeypatch.setenv("MOSAIC_GPU_DUMP_PTXAS", "1")
    compile_attention(heads, page_size, **options)
    report = "".join(capfd.readouterr())
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", report)
    # stores and loads of each kernel; that which adds up parts may have been compiled by a test before
    assert len(spills) >= 2 * (1 if options.get("uniform") else 2)
    # the widest heads leave no register free, and JAX 0.10's code for them needs a few more
    few = 40 if jax.__version_info__ < (0, 11) and heads.dim > 128 else 0
    assert max(map(int, spills)) <= few, report


def test_cache_of_a_whole_step_is_written_in_place():
    """Work lists, write and attention in one program: nothing but the write makes an array of the cache's size."""
    where = NamedSharding(mesh("h200"), PartitionSpec())

    def step(pages, q, k, table):
        pages = write_kv(pages, k, k, *table)
        return ragged_paged_attention(q, pages, *table, sm_scale=0.1), pages

    with jax.set_mesh(mesh("h200")):
        pages, q, k, table = operands(LLAMA_8B, 16, where)
        compiled = jax.jit(step, donate_argnums=0).lower(pages, q, k, table).compile()
    size, memory, text = pages.size * pages.dtype.itemsize, compiled.memory_analysis(), compiled.as_text()
    assert memory.alias_size_in_bytes >= size
    assert memory.temp_size_in_bytes < size
    made = re.findall(r"= \w+\[([\d,]+)\]\S* ([\w-]+)\(", text[text.index("\nENTRY") :])
    large = {kind for shape, kind in made if math.prod(map(int, shape.split(","))) >= pages.size}
    assert large <= {"parameter", "bitcast", "fusion", "get-tuple-element"}
    assert len(re.findall(r"scatter\(", text)) == 1
    assert text.count('custom_call_target="mosaic_gpu') == 3


@pytest.mark.parametrize(("tokens", "increments", "kernels"), [(ROWS, True, 2), (1, False, 2), (ROWS, False, 3)])
def test_tiles_are_left_out_where_no_row_can_have_any(tokens, increments, kernels):
    """Singles, the adding of their parts, and tiles where rows of several tokens are possible."""
    with jax.set_mesh(mesh("h200")):
        pages, q, _, table = operands(LLAMA_70B_OF_8, 64, NamedSharding(mesh("h200"), PartitionSpec()))
        q = jax.ShapeDtypeStruct((tokens, *q.shape[1:]), q.dtype, sharding=q.sharding)

        def attend(q, pages, table):
            lists = prepare(*table, num_tokens=tokens, page_size=64, heads=LLAMA_70B_OF_8, increments=increments)
            return ragged_paged_attention(q, pages, *table, sm_scale=0.1, metadata=lists)

        text = jax.jit(attend).lower(q, pages, table).as_text()
    assert text.count("@mosaic_gpu") == kernels


def test_blackwell_is_served_by_xla_and_told_why():
    with jax.set_mesh(mesh("b200")):
        assert resolve() == "xla"
        with pytest.raises(
            NotImplementedError, match=r"cannot run on NVIDIA B200 .*: its kernels use wgmma, which only"
        ):
            resolve("mosaic_gpu")
        assert current_target().cores == 148
    for card in ("h100", "h200"):
        with jax.set_mesh(mesh(card)):
            assert resolve() == "mosaic_gpu"
            assert current_target().cores == 132
