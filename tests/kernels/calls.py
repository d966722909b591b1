"""Calls of the operations in a form, compiled once for each form and shape."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from forms import Form
from ragged_mixtures import Arrays, Case

from pallas_kernels.ragged_paged_attention import Heads, prepare, ragged_paged_attention, write_kv
from pallas_kernels.ragged_paged_attention.implementation import find


@functools.partial(jax.jit, static_argnames=("options", "form"))
def attend(q, pages, table, *, options, form):
    options = dict(options)
    page_size, num_kv_heads = find(form.implementation, interpret=form.interpret).geometry(pages)
    kind = dict(sliding_window=options["sliding_window"], uniform=form.uniform)
    how = dict(implementation=form.implementation, interpret=form.interpret)
    heads = Heads(q.shape[1], num_kv_heads, q.shape[2])
    work = dict(num_tokens=q.shape[0], page_size=page_size, heads=heads, tuning=form.tuning)
    metadata = prepare(*table, **work, **kind, **how)
    return ragged_paged_attention(q, pages, *table, sm_scale=options["sm_scale"], soft_cap=options["soft_cap"],
                                  metadata=metadata, **kind, **how)  # fmt: skip


@functools.partial(jax.jit, static_argnames=("form",))
def write(pages, k, v, table, *, form):
    return write_kv(pages, k, v, *table, implementation=form.implementation, interpret=form.interpret)


def run(case: Case, a: Arrays, form: Form) -> np.ndarray:
    """Attention of a case, in q's type."""
    options = tuple(case.options().items())
    return np.asarray(attend(jnp.asarray(a.q), form.pages(a.pages), a.table, options=options, form=form))
