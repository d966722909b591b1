"""The K/V write: runs of tokens copied into their pages where these lie, by asynchronous copies alone.

A kernel of its own rather than a part of the attention kernel, because the operations are apart: pages may be written and
not attended to (a draft), and the compiler orders the two by the pages they share. What fusing would save is a launch and a
second read of this iteration's K and V, both small beside reading the history.
"""

import functools

import jax
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from pallas_kernels.ragged_paged_attention.layout import Pages
from pallas_kernels.ragged_paged_attention.mosaic_tpu.pages import carried, is_paired, pair, to_canonical, to_paired
from pallas_kernels.ragged_paged_attention.mosaic_tpu.worklist import WorkList

RUN = ("token", "page", "slot", "length")


def write(
    kv_pages: Pages, k: Float[Array, "T K C"], v: Float[Array, "T K C"], work: WorkList, *, interpret: bool = False
) -> Pages:
    """Pages with each real token's K and V in place; canonical ones come back canonical."""
    pages = to_paired(kv_pages)
    new = carried(pair(k.astype(pages.dtype), v.astype(pages.dtype)))
    written = pl.pallas_call(
        functools.partial(_kernel, work.page_size),
        out_shape=jax.ShapeDtypeStruct(pages.shape, new.dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1 + len(RUN),
            grid=(1,),
            in_specs=[pl.BlockSpec(memory_space=pl.ANY)] * 2,
            out_specs=pl.BlockSpec(memory_space=pl.ANY),
            scratch_shapes=[pltpu.SemaphoreType.DMA],
        ),
        input_output_aliases={2 + len(RUN): 0},
        interpret=interpret,
        name="write_kv",
    )(work.num_runs, *(work.runs[name] for name in RUN), new, carried(pages))
    pages = lax.bitcast_convert_type(written, pages.dtype)
    return pages if is_paired(kv_pages) else to_canonical(pages, k.shape[2])


def _kernel(page_size: int, num_runs, token, page, slot, length, new, _, pages, sem) -> None:
    def each(do) -> None:
        """`do` every copy: a run of n tokens is one copy for each bit of n, as copies have sizes known beforehand."""

        def run(i, _):
            for bit in range(min(page_size, new.shape[0]).bit_length()):
                size = 1 << bit
                done = length[i] & (size - 1)

                @pl.when((length[i] & size) != 0)
                def _(size=size, done=done):
                    source = new.at[pl.ds(token[i] + done, size)]
                    target = pages.at[page[i], pl.ds(slot[i] + done, size)]
                    do(pltpu.make_async_copy(source, target, sem))

            return 0

        lax.fori_loop(0, num_runs[0], run, 0)

    each(lambda copy: copy.start())
    each(lambda copy: copy.wait())
