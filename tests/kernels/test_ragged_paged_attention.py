"""One set of expectations for every implementation, layout and mode of ragged paged attention, against float64 NumPy."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from ragged_mixtures import Case, arrays, cases

from pallas_kernels.ragged_paged_attention import (
    Heads,
    from_canonical,
    pages_dtype,
    pages_shape,
    prepare,
    ragged_paged_attention,
    reference,
    resolve,
    to_canonical,
    write_kv,
)
from pallas_kernels.ragged_paged_attention.metadata import Tuning

# small blocks and tiles, so that small cases cross their boundaries: 2 singles x 16 tokens, tiles of 4 x 16
SMALL = Tuning(single_rows=2, single_work=32, tile=4, tile_block=16)
FORMS = [
    pytest.param("xla", "own", False, SMALL, id="xla-own"),
    pytest.param("xla", "own", False, Tuning(), id="xla-own-default-blocks"),
    pytest.param("xla", "own", True, SMALL, id="xla-own-uniform"),
    pytest.param("xla", "canonical", False, SMALL, id="xla-canonical"),
]


@functools.partial(jax.jit, static_argnames=("options", "uniform", "implementation", "tuning"))
def attend(q, pages, table, *, options, uniform, implementation, tuning):
    options = dict(options)
    page_size = pages.shape[1] if pages.ndim == 4 else pages.shape[3]
    kind = dict(sliding_window=options["sliding_window"], uniform=uniform, implementation=implementation)
    heads = Heads(q.shape[1], pages.shape[2] // (2 if pages.ndim == 4 else 1), q.shape[2])
    metadata = prepare(*table, num_tokens=q.shape[0], page_size=page_size, heads=heads, tuning=tuning, **kind)
    return ragged_paged_attention(q, pages, *table, sm_scale=options.pop("sm_scale"), metadata=metadata,
                                  soft_cap=options["soft_cap"], **kind)  # fmt: skip


def run(case, a, implementation="xla", layout="own", uniform=False, tuning=SMALL, dtype=jnp.float32):
    pages = jnp.asarray(a.pages, dtype)
    if layout == "own":
        pages = from_canonical(implementation, pages)
    options = tuple(case.options().items())
    how = dict(options=options, uniform=uniform, implementation=implementation, tuning=tuning)
    return np.asarray(attend(jnp.asarray(a.q), pages, a.table, **how))


@pytest.mark.parametrize(("implementation", "layout", "uniform", "tuning"), FORMS)
@settings(max_examples=25)
@given(case=cases())
def test_equals_the_definition(case, implementation, layout, uniform, tuning):
    a = arrays(case)
    expected = reference.ragged_paged_attention(a.q, a.pages, *a.table, **case.options())
    got = run(case, a, implementation, layout, uniform, tuning)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)
    assert not got[sum(q for q, _ in case.rows) :].any()


FIXED = [
    Case(rows=(), page_size=4),
    Case(rows=((1, 0),), page_size=4),
    Case(rows=((24, 0),), page_size=4),
    Case(rows=((1, 63), (1, 0), (1, 30), (1, 31), (9, 20), (11, 0)), page_size=4),
    Case(rows=((9, 20), (1, 63), (1, 15)), page_size=4, sliding_window=17),
    Case(rows=((0, 5), (1, 9), (0, 0), (3, 9)), page_size=4),
]


@pytest.mark.parametrize(("implementation", "layout", "uniform", "tuning"), FORMS)
def test_edges(implementation, layout, uniform, tuning):
    for case in FIXED:
        a = arrays(case)
        expected = reference.ragged_paged_attention(a.q, a.pages, *a.table, **case.options())
        np.testing.assert_allclose(run(case, a, implementation, layout, uniform, tuning), expected, atol=2e-5)


@pytest.mark.parametrize("uniform", [False, True])
def test_bfloat16_cache_is_as_near_as_its_roundings(uniform):
    case = Case(rows=((1, 63), (1, 40), (9, 20)), page_size=4)
    a = arrays(case)
    a.pages = np.asarray(jnp.asarray(a.pages, jnp.bfloat16), np.float32)
    expected = reference.ragged_paged_attention(a.q, a.pages, *a.table, **case.options())
    got = run(case, a, uniform=uniform, dtype=jnp.bfloat16)
    np.testing.assert_allclose(got, expected, atol=0.02)


def test_result_has_the_type_of_q():
    case = FIXED[3]
    a = arrays(case)
    a.q = jnp.asarray(a.q, jnp.bfloat16)
    assert run(case, a, dtype=jnp.float16).dtype == jnp.bfloat16


@pytest.mark.parametrize("layout", ["own", "canonical"])
@settings(max_examples=20)
@given(case=cases())
def test_write_puts_every_token_in_its_place_and_nothing_elsewhere(case, layout):
    a = arrays(case)
    pages = a.pages_before if layout == "canonical" else from_canonical("xla", jnp.asarray(a.pages_before))
    got = to_canonical("xla", jax.jit(write_kv)(jnp.asarray(pages), a.k, a.v, *a.table))
    np.testing.assert_array_equal(got, a.pages)
    np.testing.assert_array_equal(reference.write_kv(a.pages_before, a.k, a.v, *a.table), a.pages)


def test_own_layout_round_trips():
    canonical = jnp.arange(3 * 4 * 6 * 8.0).reshape(3, 4, 6, 8)
    own = from_canonical("xla", canonical)
    assert own.shape == pages_shape("xla", 3, 4, 3, 8)
    np.testing.assert_array_equal(to_canonical("xla", own), canonical)


@pytest.mark.parametrize(("dtype", "window", "tuning"), [(jnp.float32, 9, SMALL), (jnp.bfloat16, None, Tuning())])
def test_uniform_results_do_not_know_company_place_or_chunks(dtype, window, tuning):
    """One prompt: whole, in chunks, alone, and anywhere among others; all of its tokens bitwise the same."""
    prompt, others = 18, [(1, 50), (1, 3), (2, 33)]
    rng = np.random.default_rng(0)
    whole = arrays(Case(rows=((prompt, 0),), page_size=4))
    seen: dict[int, set[bytes]] = {p: set() for p in range(prompt)}
    for chunk in (1, 5, prompt):
        for place in range(len(others) + 1):
            for begin in range(0, prompt, chunk):
                rows = others[:place] + [(min(chunk, prompt - begin), begin)] + others[place:]
                case = Case(rows=tuple(rows), page_size=4, sliding_window=window, seed=int(rng.integers(99)))
                a = arrays(case)
                kv_lens, table, cu, _ = a.table
                for p in range(int(kv_lens[place])):  # the prompt's own K/V, wherever its pages are now
                    a.pages[table[place, p // 4], p % 4] = whole.pages[whole.table[1][0, p // 4], p % 4]
                mine = slice(cu[place], cu[place + 1])
                a.q[mine] = whole.q[begin : begin + mine.stop - mine.start]
                got = run(case, a, uniform=True, dtype=dtype, tuning=tuning)[mine]
                for i, row in enumerate(got):
                    seen[begin + i].add(row.tobytes())
    assert {p: len(variants) for p, variants in seen.items()} == dict.fromkeys(seen, 1)


def test_layers_in_one_array_are_reached_by_offset():
    case, layers = FIXED[3], 3
    a = arrays(case)
    table, per, q = tuple(map(jnp.asarray, a.table)), a.pages.shape[0], jnp.asarray(a.q)

    @jax.jit
    def layer(pages, k, v, offset):
        metadata = prepare(
            *table, num_tokens=case.num_tokens, page_size=4, heads=Heads(4, 2, 8), tuning=SMALL
        ).offset_pages(offset)
        pages = write_kv(pages, k, v, *table, metadata=metadata)
        return ragged_paged_attention(q, pages, *table, sm_scale=0.3, metadata=metadata), pages

    pages = from_canonical("xla", jnp.concatenate([jnp.asarray(a.pages_before) + i for i in range(layers)]))
    for i in range(layers):
        out, pages = layer(pages, a.k + i, a.v - i, i * per)
        expected = reference.write_kv(a.pages_before + i, a.k + i, a.v - i, *a.table)
        np.testing.assert_array_equal(to_canonical("xla", pages)[i * per : (i + 1) * per], expected)
        expected = reference.ragged_paged_attention(a.q, expected, *a.table, sm_scale=0.3)
        np.testing.assert_allclose(out, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("uniform", "dtype"), [(False, jnp.float32), (True, jnp.bfloat16)])
def test_donated_cache_is_not_copied(uniform, dtype):
    """Write and attend in one program: no instruction but the in-place writes produces an array of the cache's size."""
    pages = jax.ShapeDtypeStruct(pages_shape("xla", 1000, 16, 2, 8), pages_dtype("xla", dtype))
    table = tuple(jax.ShapeDtypeStruct(s, jnp.int32) for s in ((8,), (8, 16), (9,), (1,)))
    q, k = jax.ShapeDtypeStruct((32, 4, 8), jnp.float32), jax.ShapeDtypeStruct((32, 2, 8), jnp.float32)

    def step(pages, q, k, table):
        pages = write_kv(pages, k, k, *table)
        return ragged_paged_attention(q, pages, *table, sm_scale=1.0, uniform=uniform), pages

    compiled = jax.jit(step, donate_argnums=0).lower(pages, q, k, table).compile()
    copied = re.findall(r"= \w+\[([\d,]+)\]\S* (?:copy|copy-start|concatenate|pad|select)\(", compiled.as_text())
    assert copied  # small ones there are: the pattern still reads today's HLO
    assert max(math.prod(map(int, shape.split(","))) for shape in copied) < pages.size / 2
    size = pages.size * pages.dtype.itemsize
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes >= size
    assert memory.temp_size_in_bytes < size / 2


def test_resolve_says_what_runs_and_refuses_the_rest():
    assert resolve() == resolve("xla") == "xla"
    with pytest.raises(
        NotImplementedError, match=r"'mosaic_gpu' cannot run on cpu \(cpu\): .* NVIDIA GPUs \(use 'xla'"
    ):
        resolve("mosaic_gpu")
    with pytest.raises(ValueError, match="'cuda' is not one of xla, mosaic_tpu, mosaic_gpu"):
        resolve("cuda")


def test_wrong_shapes_and_stale_metadata_are_refused():
    a = arrays(FIXED[1])
    metadata = prepare(*a.table, num_tokens=24, page_size=4, heads=Heads(4, 2, 8), sliding_window=8)
    with pytest.raises(ValueError, match="prepared for sliding_window=8, uniform=False"):
        ragged_paged_attention(a.q, jnp.asarray(a.pages), *a.table, sm_scale=1.0, metadata=metadata)
    with pytest.raises(ValueError, match=r"prepared for page_size and T = \(4, 24\)"):
        write_kv(jnp.asarray(a.pages), a.k[:8], a.v[:8], *a.table, metadata=metadata)
    with pytest.raises(ValueError, match="q has 3 heads"):
        ragged_paged_attention(a.q[:, :3], jnp.asarray(a.pages), *a.table, sm_scale=1.0)
    with pytest.raises(ValueError, match="kv_pages has shape"):
        ragged_paged_attention(a.q, jnp.zeros((2, 3)), *a.table, sm_scale=1.0)
    with pytest.raises(ValueError, match="sliding_window = 0"):
        ragged_paged_attention(a.q, jnp.asarray(a.pages), *a.table, sm_scale=1.0, sliding_window=0)
