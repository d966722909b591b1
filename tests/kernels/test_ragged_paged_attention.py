"""One set of expectations for every implementation, layout and mode of ragged paged attention, against float64 NumPy."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calls import INTERPRETED, attend, compiled_for, run, write
from forms import HOPPER, TPU, XLA, all_forms
from hypothesis import given, settings
from hypothesis import strategies as st
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

# NaN does meet wgmma: in keys behind a row's end (masked afterwards) and in rows of a tile that belong to no token
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in matmul:RuntimeWarning")


def equals(case, form):
    a = form.rounded(arrays(case))
    expected = reference.ragged_paged_attention(a.q, a.pages, *a.table, **case.options())
    got = run(case, a, form)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=form.atol)
    assert not got[sum(q for q, _ in case.rows) :].any()


def equals_in_drawn_cases(form, kinds, examples):
    for kind in kinds:  # each by itself, so that each is drawn
        settings(max_examples=examples)(given(cases((kind,)))(lambda case: equals(case, form)))()


@all_forms()
def test_equals_the_definition(form):
    equals_in_drawn_cases(form, form.kinds, form.examples)


@pytest.mark.full
@all_forms()
def test_equals_the_definition_in_many_cases(form):
    equals_in_drawn_cases(form, form.kinds + form.more_kinds, form.many)


@pytest.mark.parametrize("form", [TPU, HOPPER], ids=["tpu", "gpu"])  # to XLA it is all the same
def test_programs_for_increments_leave_nothing_out_that_these_need(form):
    """One row of one token, and rows that are said to have one each."""
    for rows, tokens, said in ((((1, 30),), 1, False), (((1, 30), (0, 5), (1, 0), (1, 127)), 6, True)):
        case = Case(rows=rows, page_size=16, num_tokens=tokens, head_dim=64)
        equals(case, dataclasses.replace(form, increments=said))


ROUNDED = {"dtype": jnp.bfloat16, "atol": 0.004}
SIXTEEN_BITS = [
    pytest.param(dataclasses.replace(form, **ROUNDED), cap, id=f"{form.implementation}-{cap}")
    for form, cap in ((XLA, None), (XLA, 64.0), (TPU, None), (TPU, 64.0), (HOPPER, 64.0))
]


@pytest.mark.parametrize(("form", "soft_cap"), SIXTEEN_BITS)
def test_scores_are_scaled_and_not_queries(form, soft_cap):
    """0.3 q is no bfloat16: rounded once more, it would give the first key, whose product with q is 0, more than half."""
    case = Case(rows=((1, 1),), page_size=16, num_tokens=4, num_kv_heads=1, group=1, head_dim=64, soft_cap=soft_cap)
    a = arrays(case)
    page = a.table[1][0, 0]
    a.q[0], a.pages[page, :2] = 0, 0
    a.q[0, 0, :2] = 1, 3
    a.pages[page, 0, 0, :2] = 192, -64
    a.pages[page, 0, 1] = 1
    call = compiled_for(form, attend, "options")
    options = tuple({**case.options(), "sm_scale": 0.3}.items())
    got = call(jnp.asarray(a.q), form.pages(a.pages), a.table, options=options)
    np.testing.assert_allclose(got[0], 0.5, atol=form.atol)


FIXED = [
    Case(rows=(), page_size=4),
    Case(rows=((1, 0),), page_size=4),
    Case(rows=((24, 0),), page_size=4),
    Case(rows=((1, 63), (1, 0), (1, 30), (1, 31), (9, 20), (11, 0)), page_size=4),
    Case(rows=((9, 20), (1, 63), (1, 15)), page_size=4, sliding_window=17),
    Case(rows=((0, 5), (1, 9), (0, 0), (3, 9)), page_size=4),
]


@all_forms(fixed=True)
def test_edges(form):
    for case in FIXED:
        case = dataclasses.replace(case, page_size=form.page_size)
        a = form.rounded(arrays(case))
        expected = reference.ragged_paged_attention(a.q, a.pages, *a.table, **case.options())
        np.testing.assert_allclose(run(case, a, form), expected, atol=form.atol)


@all_forms(fixed=True, layout="own")
def test_a_row_of_nans_keeps_them(form):
    """One sequence may go wrong; the others of the batch, in the same tile too, do not notice."""
    case = Case(rows=((1, 30), (1, 40), (5, 20), (7, 3), (6, 0)), page_size=form.page_size)
    a = arrays(case)
    clean = run(case, a, form)
    kv_lens, table, cu, _ = a.table
    for row in (1, 3):
        a.pages[table[row, : -(-kv_lens[row] // case.page_size)]] = np.nan
        a.q[cu[row] : cu[row + 1]] = np.nan
    got = run(case, a, form)
    for row in range(5):
        mine = slice(cu[row], cu[row + 1])
        if row in (1, 3):
            assert np.isnan(got[mine]).all()
        else:
            np.testing.assert_array_equal(got[mine], clean[mine])


@pytest.mark.parametrize("uniform", [False, True])
def test_bfloat16_cache_is_as_near_as_its_roundings(uniform):
    form = dataclasses.replace(XLA, uniform=uniform, dtype=jnp.bfloat16)
    case = Case(rows=((1, 63), (1, 40), (9, 20)), page_size=4)
    a = form.rounded(arrays(case))
    expected = reference.ragged_paged_attention(a.q, a.pages, *a.table, **case.options())
    np.testing.assert_allclose(run(case, a, form), expected, atol=0.02)


@pytest.mark.parametrize("form", [XLA, TPU, HOPPER], ids=["xla", "tpu", "gpu"])
def test_result_has_the_type_of_q(form):
    case = dataclasses.replace(FIXED[1], page_size=form.page_size)
    a = arrays(case)
    form = dataclasses.replace(form, dtype=jnp.float16)
    pages = form.pages(a.pages)
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
        call = functools.partial(attend, options=tuple(case.options().items()), form=form)
        assert jax.eval_shape(call, jnp.asarray(a.q, dtype), pages, a.table).dtype == dtype


@all_forms(uniform=False)
@settings(max_examples=20)
@given(data=st.data())
def test_write_puts_every_token_in_its_place_and_nothing_elsewhere(data, form):
    case = data.draw(cases(form.kinds))
    drawn = arrays(case)
    a = form.rounded(drawn)
    got = write(form.pages(a.pages_before), drawn.k, drawn.v, a.table, form=form)
    np.testing.assert_array_equal(form.canonical(got, case), a.pages)
    np.testing.assert_array_equal(reference.write_kv(a.pages_before, a.k, a.v, *a.table), a.pages)


@pytest.mark.parametrize("implementation", ["xla", "mosaic_tpu", "mosaic_gpu"])
@pytest.mark.parametrize("head_dim", [8, 128, 160])
def test_own_layout_round_trips(implementation, head_dim):
    canonical = jnp.arange(3.0 * 8 * 6 * head_dim).reshape(3, 8, 6, head_dim)
    own = from_canonical(implementation, canonical)
    assert own.shape == pages_shape(implementation, 3, 8, 3, head_dim)
    np.testing.assert_array_equal(to_canonical(implementation, own, head_dim), canonical)


UNIFORM = [
    pytest.param(dataclasses.replace(XLA, uniform=True), 9, id="xla"),
    pytest.param(dataclasses.replace(XLA, uniform=True, dtype=jnp.bfloat16, tuning=None), None, id="xla-bfloat16"),
    pytest.param(dataclasses.replace(TPU, uniform=True), 9, id="tpu"),
    pytest.param(dataclasses.replace(TPU, uniform=True, dtype=jnp.bfloat16), None, id="tpu-bfloat16"),
]


@pytest.mark.parametrize(("form", "window"), UNIFORM)
def test_uniform_results_do_not_know_company_place_or_chunks(form, window):
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
                got = run(case, a, form)[mine]
                for i, row in enumerate(got):
                    seen[begin + i].add(row.tobytes())
    assert {p: len(variants) for p, variants in seen.items()} == dict.fromkeys(seen, 1)


@pytest.mark.parametrize("form", [XLA, TPU], ids=["xla", "tpu"])
def test_layers_in_one_array_are_reached_by_offset(form):
    case, layers = FIXED[3], 3
    a = arrays(case)
    table, per, q = tuple(map(jnp.asarray, a.table)), a.pages.shape[0], jnp.asarray(a.q)
    how = dict(implementation=form.implementation, interpret=form.interpret)

    @functools.partial(jax.jit, compiler_options=INTERPRETED if form.interpret else None)
    def layer(pages, k, v, offset):
        metadata = prepare(
            *table, num_tokens=case.num_tokens, page_size=4, heads=Heads(4, 2, 8), tuning=form.tuning, **how
        ).offset_pages(offset)
        pages = write_kv(pages, k, v, *table, metadata=metadata, **how)
        return ragged_paged_attention(q, pages, *table, sm_scale=0.3, metadata=metadata, **how), pages

    pages = form.pages(np.concatenate([a.pages_before + i for i in range(layers)]))
    for i in range(layers):
        out, pages = layer(pages, a.k + i, a.v - i, i * per)
        expected = reference.write_kv(a.pages_before + i, a.k + i, a.v - i, *a.table)
        np.testing.assert_array_equal(form.canonical(pages, case)[i * per : (i + 1) * per], expected)
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


@pytest.mark.parametrize("uniform", [False, True])
def test_work_follows_the_real_lengths_and_not_the_width_of_the_page_table(uniform):
    case = Case(rows=((1, 63), (1, 3), (9, 20), (13, 0)), page_size=4)
    kv_lens, table, cu, num_rows = arrays(case).table
    wide = np.concatenate([table] * 8, axis=1)
    kind = dict(num_tokens=24, page_size=4, heads=Heads(4, 2, 8), uniform=uniform, tuning=XLA.tuning)
    narrow, broad = (prepare(kv_lens, pages, cu, num_rows, **kind) for pages in (table, wide))
    for name in ("single_blocks", "num_tiles", "kv_lens", "tile_position"):
        np.testing.assert_array_equal(getattr(narrow, name), getattr(broad, name))


def test_resolve_says_what_runs_and_refuses_the_rest():
    assert resolve() == resolve("xla") == "xla"
    with pytest.raises(
        NotImplementedError, match=r"'mosaic_gpu' cannot run on cpu \(cpu\): .* NVIDIA GPUs \(use 'xla'"
    ):
        resolve("mosaic_gpu")
    with pytest.raises(NotImplementedError, match=r"'mosaic_tpu' cannot run on cpu \(cpu\): it needs a TPU"):
        resolve("mosaic_tpu")
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


def test_tuning_that_does_not_fit_is_refused():
    a = arrays(FIXED[1])
    tuning = dataclasses.replace(TPU.tuning, fetch=40)
    how = dict(num_tokens=24, page_size=4, heads=Heads(4, 2, 8), implementation="mosaic_tpu", interpret=True)
    with pytest.raises(ValueError, match=r"tuning.fetch = 40, but it has to be a multiple of 16, single_block"):
        prepare(*a.table, tuning=tuning, **how)
