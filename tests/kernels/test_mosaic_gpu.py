"""The Hopper kernels in JAX's GPU interpreter (TMA copies, barriers, wgmma), against float64 NumPy; races are looked for."""

import dataclasses
import functools

import calls
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calls import run
from forms import HOPPER, HOPPER_KINDS, SLOW, SMALL_HOPPER
from hypothesis import given, settings
from hypothesis import strategies as st
from ragged_mixtures import Case, arrays, cases

from pallas_kernels.ragged_paged_attention import (
    Heads,
    allocate_pages,
    from_canonical,
    prepare,
    ragged_paged_attention,
    reference,
    write_kv,
)
from pallas_kernels.ragged_paged_attention.mosaic_gpu import metadata as lists
from pallas_kernels.ragged_paged_attention.mosaic_gpu.metadata import Tuning, choose
from pallas_kernels.ragged_paged_attention.target import Target

# NaN does meet wgmma: in keys behind a row's end (masked afterwards) and in rows of a tile that belong to no token
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in matmul:RuntimeWarning")

many_calls = pytest.mark.skipif(SLOW, reason="JAX 0.10's GPU interpreter takes 10 s a call")
INTERPRETED = dict(implementation="mosaic_gpu", interpret=True)
LLAMA = Case(rows=(), **HOPPER_KINDS[0])
LISTS = [kind for kind in HOPPER_KINDS if kind["head_dim"] < 256]


def check(case, form=HOPPER):
    a = form.rounded(arrays(case))
    expected = reference.ragged_paged_attention(a.q, a.pages, *a.table, **case.options())
    got = run(case, a, form)
    np.testing.assert_allclose(got, expected, atol=form.atol)
    assert not got[sum(q for q, _ in case.rows) :].any()


EDGES = [
    (),
    ((1, 0),),
    ((152, 0),),
    ((0, 5), (1, 9), (0, 0), (3, 9)),
    ((0, 0),),
    ((1, 271), (150, 122), (1, 63)),
    ((65, 0), (64, 64), (1, 127), (1, 128)),
]


@many_calls
def test_edges():
    for rows in EDGES:
        check(dataclasses.replace(LLAMA, rows=rows))


@many_calls
def test_uniform_results_do_not_know_company_place_chunks_bucket_or_card():
    """A prompt's tokens, bitwise: whole, in chunks, alone, among others, in a bucket of another size, on another grid."""
    form = dataclasses.replace(HOPPER, uniform=True)
    on_five = dataclasses.replace(form, tuning=dataclasses.replace(SMALL_HOPPER, single_programs=5))
    base = dataclasses.replace(LLAMA, num_kv_heads=1, num_tokens=14, bucket_rows=3, sliding_window=70)
    prompt = 72
    whole = arrays(dataclasses.replace(base, rows=((prompt, 0),), num_tokens=prompt))
    seen: dict[int, set[bytes]] = {}
    for begin, size, before, after, tokens, how in (
        (60, 12, [], [], 14, form),
        (60, 12, [], [], 14, on_five),
        (60, 1, [(1, 200)], [(2, 33)], 14, form),
        (61, 7, [(3, 70)], [], 14, form),
        (60, 8, [], [(1, 3)], 9, form),
        (66, 6, [(1, 90)], [(7, 100)], 14, form),
    ):
        case = dataclasses.replace(base, rows=(*before, (size, begin), *after), seed=size, num_tokens=tokens)
        a, place = arrays(case), len(before)
        kv_lens, table, cu, _ = a.table
        for p in range(int(kv_lens[place])):  # the prompt's own K/V, wherever its pages are now
            a.pages[table[place, p // 16], p % 16] = whole.pages[whole.table[1][0, p // 16], p % 16]
        mine = slice(cu[place], cu[place + 1])
        a.q[mine] = whole.q[begin : begin + size]
        for i, row in enumerate(run(case, a, how)[mine]):
            seen.setdefault(begin + i, set()).add(row.tobytes())
    assert {p: len(variants) for p, variants in seen.items()} == dict.fromkeys(seen, 1)
    assert len(seen) == 12


def test_grids_fill_the_card_that_is_there():
    assert choose(Target("gpu", "NVIDIA H20", 78)) == Tuning(single_programs=156, least=2, tile_programs=78)
    for silent in (Target("gpu", "NVIDIA H100 80GB HBM3"), Target("cpu", "cpu"), Target("tpu", "TPU v5e", 1)):
        assert choose(silent) == Tuning(single_programs=264, least=2, tile_programs=132)


STATIC = ("num_tokens", "page_size", "heads", "sliding_window", "uniform", "tuning")
work_lists = jax.jit(functools.partial(lists.build, increments=False, dtype=None), static_argnames=STATIC)


def test_a_short_row_is_shared_by_many_programs():
    """One row of 1,024 tokens with 8 K/V heads is 128 blocks: two for each of 64 programs."""
    case = Case(rows=((1, 1023),), page_size=16, num_tokens=4, pages_per_row=64, num_kv_heads=8, head_dim=128)
    meta = work_lists(*arrays(case).table, num_tokens=4, page_size=16, heads=Heads(32, 8, 128), sliding_window=None,
                      uniform=False, tuning=choose(Target("gpu", "NVIDIA H200")))  # fmt: skip
    begin, end = np.asarray(meta.programs)[:, lists.BEGIN : lists.END + 1].T
    assert sorted(end - begin) == [0] * 200 + [2] * 64


@pytest.mark.parametrize("uniform", [False, True])
@settings(max_examples=30)
@given(data=st.data())
def test_every_block_of_every_item_is_one_program_s_work(uniform, data):
    case = data.draw(cases(LISTS))
    heads = Heads(case.num_kv_heads * case.group, case.num_kv_heads, case.head_dim)
    meta = work_lists(*arrays(case).table, num_tokens=case.num_tokens, page_size=case.page_size, heads=heads,
                      sliding_window=case.sliding_window, uniform=uniform, tuning=SMALL_HOPPER)  # fmt: skip
    programs, singles, parts = map(np.asarray, (meta.programs, meta.singles, meta.parts))
    visits: dict[int, list[int]] = {}
    slots: dict[int, int] = {}
    for program, (first, count, begin, end) in enumerate(programs):
        for item in range(first, first + count):
            single = singles[item // heads.num_kv]
            start = single[lists.LINE] + item % heads.num_kv * single[lists.BLOCKS]
            mine = range(max(begin - start, 0), min(end - start, single[lists.BLOCKS]))
            assert len(mine)
            visits.setdefault(item, []).extend(mine)
            assert slots.setdefault(item + program, item) == item
    lengths = [before + i + 1 for q, before in case.rows for i in range(q) if uniform or q == 1]
    lows = [0 if case.sliding_window is None else max(0, n - case.sliding_window) // 64 for n in lengths]
    blocks = [-(-n // 64) - low for n, low in zip(lengths, lows, strict=True)]
    expected = {i * heads.num_kv + h: list(range(n)) for i, n in enumerate(blocks) for h in range(heads.num_kv)}
    assert visits == expected
    for item, (first, count) in enumerate(parts):
        assert [slots[first + i] for i in range(count)] == [item] * list(slots.values()).count(item)
        assert count <= 1 or not uniform


def test_layers_in_one_array_are_reached_by_offset():
    case = dataclasses.replace(LLAMA, rows=((1, 100), (3, 20)), num_tokens=8, bucket_rows=2)
    a = HOPPER.rounded(arrays(case))
    per = a.pages.shape[0]
    pages = from_canonical(
        "mosaic_gpu", jnp.concatenate([jnp.full_like(a.pages, jnp.nan), a.pages_before]).astype(jnp.bfloat16)
    )

    @functools.partial(jax.jit, compiler_options=calls.INTERPRETED)
    def layer(q, pages, k, v, table):
        meta = prepare(*table, num_tokens=8, page_size=16, heads=Heads(4, 2, 64), tuning=SMALL_HOPPER, **INTERPRETED)
        meta = meta.offset_pages(per)
        pages = write_kv(pages, k, v, *table, metadata=meta, **INTERPRETED)
        return ragged_paged_attention(q, pages, *table, sm_scale=0.3, metadata=meta, **INTERPRETED)

    got = layer(jnp.asarray(a.q, jnp.bfloat16), pages, a.k, a.v, a.table)
    expected = reference.ragged_paged_attention(a.q, a.pages, *a.table, sm_scale=0.3)
    np.testing.assert_allclose(np.asarray(got, np.float32), expected, rtol=2e-2, atol=1e-2)


def test_what_it_cannot_do_is_refused():
    case = dataclasses.replace(LLAMA, rows=((1, 3),))
    a = arrays(case)
    pages = from_canonical("mosaic_gpu", jnp.asarray(a.pages))
    with pytest.raises(ValueError, match="take pages of bfloat16 or float16, not float32"):
        ragged_paged_attention(a.q, pages, *a.table, sm_scale=1.0, **INTERPRETED)
    of = functools.partial(prepare, num_tokens=152, page_size=16, heads=Heads(8, 2, 64), **INTERPRETED)
    meta = jax.eval_shape(of, *a.table)
    with pytest.raises(ValueError, match=r"prepared for Heads\(num_q=8, .* but the call has Heads\(num_q=4, "):
        ragged_paged_attention(a.q, pages.astype(jnp.bfloat16), *a.table, sm_scale=1.0, metadata=meta, **INTERPRETED)
    with pytest.raises(ValueError, match="page_size = 20 is no multiple of 8"):
        allocate_pages("mosaic_gpu", 4, 20, 2, 64, jnp.bfloat16)
    with pytest.raises(ValueError, match="head_dim = 512 is above 256"):
        allocate_pages("mosaic_gpu", 4, 16, 2, 512, jnp.bfloat16)
    with pytest.raises(ValueError, match=r"kv_pages has shape \(2, 3\)"):
        ragged_paged_attention(a.q, jnp.zeros((2, 3), jnp.bfloat16), *a.table, sm_scale=1.0, **INTERPRETED)
