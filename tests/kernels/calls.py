"""Calls of the operations in a form, compiled once for each form and shape.

An interpreted kernel is a large program of small loops, on which LLVM would spend twice the time that everything else takes.
XLA's own passes, which decide what is computed in which order, are all there.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from forms import Form
from ragged_mixtures import Arrays, Case

from pallas_kernels.ragged_paged_attention import Heads, prepare, ragged_paged_attention, write_kv
from pallas_kernels.ragged_paged_attention.implementation import find

INTERPRETED = {"xla_backend_optimization_level": 0}


def compiled_for(form: Form, function: Callable, *static: str) -> Callable:
    """`function`, jitted in one way for each form."""
    return functools.partial(_compiled(function, static, form.interpret), form=form)


@functools.cache
def _compiled(function: Callable, static: tuple[str, ...], interpret: bool) -> Callable:
    options = INTERPRETED if interpret else None
    return jax.jit(function, static_argnames=("form", *static), compiler_options=options)


def attend(q, pages, table, *, options, form):
    """Attention with lists of its own; `options` are a case's, as items."""
    options = dict(options)
    page_size, num_kv_heads = find(form.implementation, interpret=form.interpret).geometry(pages)
    kind = dict(sliding_window=options["sliding_window"], uniform=form.uniform)
    how = dict(implementation=form.implementation, interpret=form.interpret)
    heads = Heads(q.shape[1], num_kv_heads, q.shape[2])
    work = dict(num_tokens=q.shape[0], page_size=page_size, heads=heads, tuning=form.tuning, dtype=pages.dtype)
    metadata = prepare(*table, **work, increments=form.increments, **kind, **how)
    return ragged_paged_attention(q, pages, *table, sm_scale=options["sm_scale"], soft_cap=options["soft_cap"],
                                  metadata=metadata, **kind, **how)  # fmt: skip


def write_in(pages, k, v, table, *, form):
    """The write."""
    return write_kv(pages, k, v, *table, implementation=form.implementation, interpret=form.interpret)


def write(pages, k, v, table, *, form: Form):
    """Pages with the tokens in place."""
    return compiled_for(form, write_in)(pages, k, v, table)


def run(case: Case, a: Arrays, form: Form) -> np.ndarray:
    """Attention of a case, in q's type."""
    options = tuple(case.options().items())
    call = compiled_for(form, attend, "options")
    return np.asarray(call(jnp.asarray(a.q), form.pages(a.pages), a.table, options=options))
