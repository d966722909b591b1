"""The TPU kernels in JAX's simulator of a TPU: copies land late, fresh memory is NaN, and unordered accesses are found."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forms import SMALL_TPU
from jax.experimental.pallas import tpu as pltpu
from ragged_mixtures import Case, arrays

from pallas_kernels.ragged_paged_attention import (
    Heads,
    from_canonical,
    prepare,
    ragged_paged_attention,
    reference,
    to_canonical,
    write_kv,
)

SIMULATED = dict(implementation="mosaic_tpu", interpret=pltpu.InterpretParams(detect_races=True))
CASES = [
    pytest.param(Case(rows=((1, 80), (1, 0), (1, 31), (9, 40), (11, 0)), page_size=16), False, id="mixture"),
    pytest.param(Case(rows=((9, 40), (1, 70), (2, 20), (1, 15)), page_size=16, sliding_window=17), False, id="window"),
    pytest.param(Case(rows=((1, 80), (9, 20)), page_size=16), True, id="uniform"),
]


def checked(result):
    """What a simulated kernel made, which must have had no race. JAX keeps that verdict in a module of its own."""
    result = jax.block_until_ready(result)
    simulator = importlib.import_module("jax._src.pallas.mosaic.interpret.interpret_pallas_call")
    assert not simulator.races.races_found
    return result


@jax.jit
def write(pages, k, v, table):
    return write_kv(pages, k, v, *table, **SIMULATED)


@functools.partial(jax.jit, static_argnames=("case", "uniform"))
def attend(q, pages, table, *, case, uniform):
    kind = dict(sliding_window=case.sliding_window, uniform=uniform, **SIMULATED)
    heads = Heads(case.num_kv_heads * case.group, case.num_kv_heads, case.head_dim)
    work = dict(num_tokens=case.num_tokens, page_size=case.page_size, heads=heads, tuning=SMALL_TPU)
    metadata = prepare(*table, **work, **kind)
    return ragged_paged_attention(q, pages, *table, metadata=metadata, sm_scale=0.3, **kind)


@pytest.mark.parametrize(("case", "uniform"), CASES)
def test_copies_never_race_with_what_they_bring(case, uniform):
    a = arrays(case)
    pages = from_canonical("mosaic_tpu", jnp.asarray(a.pages_before))
    pages = checked(write(pages, jnp.asarray(a.k), jnp.asarray(a.v), a.table))
    np.testing.assert_array_equal(to_canonical("mosaic_tpu", pages, case.head_dim), a.pages)
    out = checked(attend(jnp.asarray(a.q), pages, a.table, case=case, uniform=uniform))
    options = dict(sm_scale=0.3, sliding_window=case.sliding_window)
    expected = reference.ragged_paged_attention(a.q, a.pages, *a.table, **options)
    np.testing.assert_allclose(out, expected, rtol=2e-5, atol=2e-5)
