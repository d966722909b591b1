"""From flat batches to what the two Hopper kernels read, and back: XLA's part of an attention call."""

from typing import Any

import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float

from pallas_kernels.ragged_paged_attention.metadata import ceil_div
from pallas_kernels.ragged_paged_attention.mosaic_gpu import singles, tiles
from pallas_kernels.ragged_paged_attention.mosaic_gpu.layout import HopperPages
from pallas_kernels.ragged_paged_attention.mosaic_gpu.metadata import HopperMetadata, chunks
from pallas_kernels.ragged_paged_attention.mosaic_gpu.ops import SIMPLE_INTERPRETER, Ops, interpreter


def attend(
    q: Float[Array, "T H C"],
    kv_pages: HopperPages,
    meta: HopperMetadata,
    *,
    sm_scale: float,
    soft_cap: float | None,
    interpret: bool,
) -> Float[Array, "T H C"]:
    """Attention of every real token over its row's pages, zeros for the others; see `operations.attend`."""
    heads, width = meta.heads, kv_pages.shape[4]
    kv = kv_pages.reshape(-1, 2 * width)
    queries = q.astype(kv.dtype).reshape(q.shape[0], heads.num_kv, heads.group, heads.dim)
    queries = jnp.pad(queries, ((0, 0),) * 3 + ((0, width - heads.dim),))
    how: dict[str, Any] = dict(sm_scale=sm_scale, soft_cap=soft_cap, options=_options(interpret))
    how["ops"] = Ops(plain=interpret and SIMPLE_INTERPRETER)
    out = _singles(queries, kv, meta, how)
    if meta.has_tiles:
        out = jnp.where((meta.place >= 0)[:, None, None, None], _tiles(queries, kv, meta, how), out)
    return out[..., : heads.dim].reshape(q.shape).astype(q.dtype)


def _options(interpret: bool) -> dict[str, Any]:
    """How a kernel is to be compiled; or interpreted."""
    if interpret:
        return dict(interpret=interpreter())
    return dict(compiler_params=plgpu.CompilerParams(approx_math=True))


def _singles(q: Float[Array, "T K G C"], kv, meta: HopperMetadata, how: dict[str, Any]) -> Float[Array, "T K G C"]:
    """Results of the tokens that are singles, zeros for the others."""
    tokens, heads, group, width = q.shape
    n, per_group = chunks(meta.heads)
    size = ceil_div(group, per_group)  # heads in a chunk; its other columns are padding
    parted = jnp.pad(q, ((0, 0), (0, 0), (0, per_group * size - group), (0, 0)))
    parted = jnp.pad(parted.reshape(tokens, -1, size, width), ((0, 0), (0, 0), (0, n - size), (0, 0)))
    done = singles.attend(parted, kv, meta, **how)[..., :size]
    done = done.transpose(0, 1, 3, 2).reshape(-1, heads, per_group * size, width)[:, :, :group]
    return jnp.where((meta.single >= 0)[:, None, None, None], done[jnp.maximum(meta.single, 0)], 0)


def _tiles(q: Float[Array, "T K G C"], kv, meta: HopperMetadata, how: dict[str, Any]) -> Float[Array, "T K G C"]:
    """Results of the tokens that stand in tiles, anything for the others."""
    tokens, heads, group, width = q.shape
    rows = q.transpose(1, 0, 2, 3).reshape(heads, tokens * group, width)[:, meta.queries]
    done = tiles.attend(rows, kv, meta, **how)
    at = jnp.maximum(meta.place, 0)[:, None] + jnp.arange(group)[None]
    return done[:, at].transpose(1, 0, 2, 3)
