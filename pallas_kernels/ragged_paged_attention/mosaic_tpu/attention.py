"""The attention call: queries in the kernel's order, the kernel, results in the batch's order."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from pallas_kernels.ragged_paged_attention.layout import Pages
from pallas_kernels.ragged_paged_attention.mosaic_tpu.kernel import kernel
from pallas_kernels.ragged_paged_attention.mosaic_tpu.pages import LANES, carried, pad_lanes, to_paired
from pallas_kernels.ragged_paged_attention.mosaic_tpu.sizes import ITEM, Sizes
from pallas_kernels.ragged_paged_attention.mosaic_tpu.worklist import WorkList

VMEM_LIMIT = 48 * 2**20  # of 64 MiB on tpu7x, more on the others; the rule in `tuning.py` stays well below


def attend(
    q: Float[Array, "T H C"],
    kv_pages: Pages,
    work: WorkList,
    *,
    sm_scale: float,
    soft_cap: float | None,
    interpret: bool | pltpu.InterpretParams = False,
) -> Float[Array, "T H C"]:
    """Attention of every real token over its row's pages; zeros for the others.

    `interpret=True` computes the kernel's numbers; `InterpretParams` simulates its memories and copies, too.
    """
    pages = to_paired(kv_pages)
    t, h, c = q.shape
    k = pages.shape[2]
    # bfloat16 runs as it is stored; of float16 the matrix unit knows nothing, so it is widened
    dtype = jnp.bfloat16 if pages.dtype == jnp.bfloat16 else jnp.float32
    queries = pad_lanes(q.astype(dtype).reshape(t, k, h // k, c))
    sizes = Sizes(
        page_size=work.page_size, heads=k, pieces=pages.shape[3], dtype=pages.dtype, tuning=work.tuning,
        sliding_window=work.sliding_window, sm_scale=sm_scale, soft_cap=soft_cap,
        simulated=isinstance(interpret, pltpu.InterpretParams),
    )  # fmt: skip
    singles = queries if work.uniform else queries[work.single_token]
    operands = [jnp.pad(singles, ((0, 0), (0, 0), (0, -(h // k) % 8), (0, 0)))]
    if work.has_tiles:
        operands.append(jnp.pad(queries.transpose(1, 2, 0, 3), ((0, 0), (0, 0), (0, -t % work.tuning.tile), (0, 0))))
    out_dtype = jnp.bfloat16 if q.dtype == jnp.bfloat16 else jnp.float32
    results = _call(work, carried(pages), operands, sizes, out_dtype, interpret)
    alone = (work.single_place >= 0)[:, None, None, None]
    single = results[0] if work.uniform else results[0][jnp.maximum(work.single_place, 0)]
    out = jnp.where(alone, single[:, :, : h // k, :c], 0)
    if work.has_tiles:
        out = jnp.where(work.tiled[:, None, None, None], results[1].transpose(2, 0, 1, 3)[:t, ..., :c], out)
    return out.reshape(t, h, c).astype(q.dtype)


def _call(work: WorkList, pages, operands: list, sizes: Sizes, out_dtype, interpret) -> list[jax.Array]:
    anywhere = pl.BlockSpec(memory_space=pl.ANY)
    buffers = pltpu.VMEM((2, sizes.tuning.fetch, sizes.stride, *pages.shape[3:]), pages.dtype)
    scratch = [pltpu.SMEM((2, *work.row_pages.shape[1:]), jnp.int32), buffers, pltpu.SemaphoreType.DMA]
    scratch.append(pltpu.SemaphoreType.DMA((2,)))
    for kind, operand in enumerate(operands):
        scratch += _scratch(kind, operand, sizes, out_dtype)
    _check_size(scratch, sizes)
    return pl.pallas_call(
        functools.partial(kernel, sizes, len(operands) == 2),
        out_shape=[jax.ShapeDtypeStruct(x.shape, out_dtype) for x in operands],
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1 + len(ITEM),
            grid=(1,),
            in_specs=[anywhere] * (2 + len(operands)),
            out_specs=[anywhere] * len(operands),
            scratch_shapes=scratch,
        ),
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=VMEM_LIMIT, disable_bounds_checks=True),
        interpret=interpret,
        name="ragged_paged_attention",
    )(work.counts, *(work.items[name] for name in ITEM), work.row_pages, pages, *operands)


def _check_size(scratch: list, sizes: Sizes) -> None:
    """ValueError for buffers that do not fit on the chip: a page of many heads can be too large by itself."""
    there = [x for x in scratch if isinstance(x, pl.MemoryRef) and x.memory_space == pltpu.VMEM]
    needed = sum(math.prod(x.shape) * jnp.dtype(x.dtype).itemsize for x in there)
    if needed > VMEM_LIMIT:
        raise ValueError(
            f"the TPU kernel's buffers take {needed / 2**20:.0f} MiB, more than {VMEM_LIMIT / 2**20:.0f}, with "
            f"{sizes.heads} K/V heads of {sizes.dtype} in pages of {sizes.page_size} tokens (use smaller pages, a "
            "16-bit type of pages, or implementation 'xla')"
        )


def _scratch(kind: int, operand, sizes: Sizes, out_dtype) -> list:
    """Buffers of queries and results, their semaphores, and a softmax's state."""
    if kind == 0:
        block, depth, m = operand.shape[1:], 2, operand.shape[2]
    else:
        k, g, _, c = operand.shape
        block, depth, m = (k, g, sizes.tuning.tile, c), 1, g * sizes.tuning.tile
    state = [pltpu.VMEM((sizes.heads, m, lanes), jnp.float32) for lanes in (LANES, LANES, operand.shape[-1])]
    copies = [pltpu.VMEM((2, *block), operand.dtype), pltpu.VMEM((depth, *block), out_dtype)]
    return [*copies, pltpu.SemaphoreType.DMA((2,)), pltpu.SemaphoreType.DMA((depth,)), *state]
