"""The Hopper kernels in JAX's GPU interpreter (TMA copies, barriers, wgmma), against float64 NumPy; races are looked for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ragged_mixtures import Case, arrays

from pallas_kernels.ragged_paged_attention import (
    Heads,
    allocate_pages,
    from_canonical,
    prepare,
    ragged_paged_attention,
    reference,
    to_canonical,
    write_kv,
)
from pallas_kernels.ragged_paged_attention.mosaic_gpu import metadata as lists
from pallas_kernels.ragged_paged_attention.mosaic_gpu.metadata import Tuning
from pallas_kernels.ragged_paged_attention.mosaic_gpu.operations import NEEDS_JAX

# NaN does meet wgmma: in keys behind a row's end (masked afterwards) and in rows of a tile that belong to no token
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in matmul:RuntimeWarning")

interpreted = pytest.mark.skipif(
    jax.__version_info__ < NEEDS_JAX, reason=f"JAX {jax.__version__} has no interpreter that these kernels fit in"
)
HOPPER = dict(implementation="mosaic_gpu", interpret=True)
FEW = Tuning(single_programs=3, least=1, tile_programs=2)  # so that small cases are shared, and parts are added up
# everything that a program is compiled for
KINDS = {
    "llama": Case(rows=(), page_size=16, head_dim=64, num_kv_heads=2, group=2, num_tokens=152, bucket_rows=5,
                  pages_per_row=17),
    "odd": Case(rows=(), page_size=48, head_dim=80, num_kv_heads=1, group=3, num_tokens=96, bucket_rows=4,
                pages_per_row=5, soft_cap=5.0),
    "gpt": Case(rows=(), page_size=128, head_dim=128, num_kv_heads=2, group=1, num_tokens=200, bucket_rows=4,
                pages_per_row=2, sliding_window=70),
    "wide": Case(rows=(), page_size=64, head_dim=256, num_kv_heads=1, group=9, num_tokens=40, bucket_rows=3,
                 pages_per_row=3, sliding_window=9, soft_cap=2.0),
}  # fmt: skip
DTYPES = {"llama": jnp.bfloat16, "odd": jnp.float16, "gpt": jnp.bfloat16, "wide": jnp.bfloat16}


@functools.partial(jax.jit, static_argnames=("options", "uniform"))
def attend(q, pages, table, *, options, uniform):
    options = dict(options)
    kind = dict(sliding_window=options["sliding_window"], uniform=uniform, **HOPPER)
    canonical = pages.ndim == 4
    page_size, kv_heads = (pages.shape[1], pages.shape[2] // 2) if canonical else (pages.shape[2], pages.shape[1])
    heads = Heads(q.shape[1], kv_heads, q.shape[2])
    metadata = prepare(*table, num_tokens=q.shape[0], page_size=page_size, heads=heads, tuning=FEW, **kind)
    return ragged_paged_attention(q, pages, *table, sm_scale=options.pop("sm_scale"), metadata=metadata,
                                  soft_cap=options["soft_cap"], **kind)  # fmt: skip


def run(case, a, dtype=jnp.bfloat16, uniform=False, layout="own"):
    pages = jnp.asarray(a.pages, dtype)
    if layout == "own":
        pages = from_canonical("mosaic_gpu", pages)
    table = tuple(map(jnp.asarray, a.table))
    return np.asarray(
        attend(jnp.asarray(a.q, dtype), pages, table, options=tuple(case.options().items()), uniform=uniform),
        np.float32,
    )


def rounded(case, dtype):
    """Operands that the kernels' type holds exactly."""
    a = arrays(case)
    a.q, a.k, a.v, a.pages, a.pages_before = (
        np.asarray(jnp.asarray(x, dtype), np.float32) for x in (a.q, a.k, a.v, a.pages, a.pages_before)
    )
    return a


def check(case, dtype=jnp.bfloat16, **how):
    a = rounded(case, dtype)
    expected = reference.ragged_paged_attention(a.q, a.pages, *a.table, **case.options())
    got = run(case, a, dtype, **how)
    np.testing.assert_allclose(got, expected, rtol=2e-2, atol=1e-2)
    assert not got[sum(q for q, _ in case.rows) :].any()


@st.composite
def mixtures(draw, kind: Case) -> Case:
    """Increments, chunks and prompts that end on and beside the boundaries of pages, blocks and tiles."""
    limit = kind.page_size * kind.pages_per_row
    edges = [x + d for x in (kind.page_size, 64, 128, limit) for d in (-1, 0, 1)]
    length = (st.sampled_from(edges) | st.integers(1, limit)).map(lambda x: max(1, min(x, limit)))
    rows, room = [], kind.num_tokens
    for _ in range(draw(st.integers(0, kind.bucket_rows))):
        total = draw(length)
        q_len = min(draw(st.sampled_from([1, 1, 1, 0, 2, 40, total])), total, room)
        rows.append((q_len, total - q_len))
        room -= q_len
    return Case(**{**vars(kind), "rows": tuple(rows), "seed": draw(st.integers(0, 99))})


@interpreted
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(data=st.data())
def test_equals_the_definition(kind, data):
    check(data.draw(mixtures(KINDS[kind])), DTYPES[kind])


@interpreted
@settings(max_examples=4)
@given(case=mixtures(Case(**{**vars(KINDS["llama"]), "num_tokens": 20, "bucket_rows": 3})))
def test_uniform_equals_the_definition(case):
    check(case, uniform=True)


EDGES = [
    (),
    ((1, 0),),
    ((152, 0),),
    ((0, 5), (1, 9), (0, 0), (3, 9)),
    ((0, 0),),
    ((1, 271), (150, 122), (1, 63)),
    ((65, 0), (64, 64), (1, 127), (1, 128)),
]


@interpreted
def test_edges():
    for rows in EDGES:
        check(Case(**{**vars(KINDS["llama"]), "rows": rows}))


@interpreted
def test_canonical_pages_and_many_heads_in_a_group():
    case = Case(
        rows=((1, 30), (2, 3)), page_size=16, head_dim=64, num_kv_heads=1, group=70, num_tokens=4, bucket_rows=2
    )
    check(case, layout="canonical")


@interpreted
def test_uniform_results_do_not_know_company_place_chunks_or_bucket():
    """A prompt's tokens, bitwise: whole, in chunks, alone, among others, and in a bucket of another size."""
    base = Case(**{**vars(KINDS["llama"]), "num_tokens": 30, "bucket_rows": 3, "sliding_window": 70})
    prompt = 90
    whole = arrays(Case(**{**vars(base), "rows": ((prompt, 0),), "num_tokens": prompt}))
    seen: dict[int, set[bytes]] = {}
    for begin, size, before, after, tokens in (
        (60, 30, [], [], 30),
        (60, 1, [(1, 200)], [(2, 33)], 30),
        (61, 7, [(3, 70)], [], 30),
        (60, 8, [], [(1, 3)], 9),
        (75, 15, [(1, 90)], [(9, 100)], 30),
    ):
        case = Case(**{**vars(base), "rows": (*before, (size, begin), *after), "seed": size, "num_tokens": tokens})
        a, place = arrays(case), len(before)
        kv_lens, table, cu, _ = a.table
        for p in range(int(kv_lens[place])):  # the prompt's own K/V, wherever its pages are now
            a.pages[table[place, p // 16], p % 16] = whole.pages[whole.table[1][0, p // 16], p % 16]
        mine = slice(cu[place], cu[place + 1])
        a.q[mine] = whole.q[begin : begin + size]
        for i, row in enumerate(run(case, a, uniform=True)[mine]):
            seen.setdefault(begin + i, set()).add(row.tobytes())
    assert {p: len(variants) for p, variants in seen.items()} == dict.fromkeys(seen, 1)
    assert len(seen) == 30


@pytest.mark.parametrize("uniform", [False, True])
@settings(max_examples=30)
@given(data=st.data())
def test_every_block_of_every_item_is_one_program_s_work(uniform, data):
    case = data.draw(mixtures(KINDS[data.draw(st.sampled_from(["llama", "gpt"]))]))
    heads = Heads(case.num_kv_heads * case.group, case.num_kv_heads, case.head_dim)
    meta = lists.build(*map(jnp.asarray, arrays(case).table), num_tokens=case.num_tokens, page_size=case.page_size,
                       heads=heads, sliding_window=case.sliding_window, uniform=uniform, tuning=FEW)  # fmt: skip
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


@pytest.mark.parametrize("layout", ["own", "canonical"])
@settings(max_examples=10)
@given(case=mixtures(KINDS["odd"]))
def test_write_puts_every_token_in_its_place_and_nothing_elsewhere(case, layout):
    a = rounded(case, jnp.float16)
    pages = jnp.asarray(a.pages_before, jnp.float16)
    if layout == "own":
        pages = from_canonical("mosaic_gpu", pages)
    got = to_canonical("mosaic_gpu", write_kv(pages, a.k, a.v, *a.table, **HOPPER))
    np.testing.assert_array_equal(got[..., : case.head_dim], a.pages)


@interpreted
def test_layers_in_one_array_are_reached_by_offset():
    case = Case(**{**vars(KINDS["llama"]), "rows": ((1, 100), (3, 20)), "num_tokens": 8, "bucket_rows": 2})
    a = rounded(case, jnp.bfloat16)
    per = a.pages.shape[0]
    pages = from_canonical(
        "mosaic_gpu", jnp.concatenate([jnp.full_like(a.pages, jnp.nan), a.pages_before]).astype(jnp.bfloat16)
    )
    meta = prepare(*a.table, num_tokens=8, page_size=16, heads=Heads(4, 2, 64), tuning=FEW, **HOPPER).offset_pages(per)
    pages = write_kv(pages, a.k, a.v, *a.table, metadata=meta, **HOPPER)
    got = ragged_paged_attention(jnp.asarray(a.q, jnp.bfloat16), pages, *a.table, sm_scale=0.3, metadata=meta, **HOPPER)
    expected = reference.ragged_paged_attention(a.q, a.pages, *a.table, sm_scale=0.3)
    np.testing.assert_allclose(np.asarray(got, np.float32), expected, rtol=2e-2, atol=1e-2)


@interpreted
def test_what_it_cannot_do_is_refused():
    case = Case(**{**vars(KINDS["llama"]), "rows": ((1, 3),)})
    a = arrays(case)
    pages = from_canonical("mosaic_gpu", jnp.asarray(a.pages))
    with pytest.raises(ValueError, match=r"kv_pages are float32, but .* bfloat16 or float16 .* 'xla'"):
        ragged_paged_attention(a.q, pages, *a.table, sm_scale=1.0, **HOPPER)
    meta = prepare(*a.table, num_tokens=152, page_size=16, heads=Heads(8, 2, 64), **HOPPER)
    with pytest.raises(ValueError, match=r"prepared for Heads\(num_q=8, .* but the call has Heads\(num_q=4, "):
        ragged_paged_attention(a.q, pages.astype(jnp.bfloat16), *a.table, sm_scale=1.0, metadata=meta, **HOPPER)
    with pytest.raises(ValueError, match="page_size = 20 is no multiple of 8"):
        allocate_pages("mosaic_gpu", 4, 20, 2, 64, jnp.bfloat16)
    with pytest.raises(ValueError, match="head_dim = 512 is above 256"):
        allocate_pages("mosaic_gpu", 4, 16, 2, 512, jnp.bfloat16)
    with pytest.raises(ValueError, match=r"kv_pages has shape \(2, 3\)"):
        ragged_paged_attention(a.q, jnp.zeros((2, 3)), *a.table, sm_scale=1.0, **HOPPER)


@pytest.mark.skipif(jax.__version_info__ >= NEEDS_JAX, reason="this JAX is new enough")
def test_an_older_jax_is_told():
    case = Case(**{**vars(KINDS["llama"]), "rows": ((1, 3),)})
    with pytest.raises(NotImplementedError, match=r"its kernels need JAX 0\.12 or newer, and this is 0\."):
        run(case, arrays(case))
