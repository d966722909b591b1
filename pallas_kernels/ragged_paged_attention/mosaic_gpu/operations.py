"""Attention and the K/V write on Hopper, in the form that the seam (`implementation.py`) wants.

Writing is separate from attention and left to XLA: a scatter of T x K rows of 2C' numbers into the donated pages. Fused
into attention, every program would have to wait for those that write its row's last page, or attend to the new tokens from
the operands and leave the pages alone: either puts a second path into the loop that bounds everything, to save one
launch and a trip of T x 2K x C numbers through the second-level cache, where the increments read R x length x 2K x C.
"""

from typing import Any

import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float

from pallas_kernels.ragged_paged_attention.layout import Heads, Pages
from pallas_kernels.ragged_paged_attention.metadata import ceil_div
from pallas_kernels.ragged_paged_attention.mosaic_gpu import layout, singles, tiles
from pallas_kernels.ragged_paged_attention.mosaic_gpu.metadata import HopperMetadata, chunks
from pallas_kernels.ragged_paged_attention.target import Target

HOPPER = ("H100", "H200", "H20", "H800", "GH200")


def why_not(target: Target) -> str | None:
    """None for NVIDIA's Hopper generation."""
    if target.platform != "gpu":
        return "its kernels are for NVIDIA GPUs"
    if any(name in target.kind.replace("-", " ").split() for name in HOPPER):
        return None
    return f"its kernels use Hopper's wgmma, which only {', '.join(HOPPER)} have"


def attend(
    q: Float[Array, "T H C"],
    kv_pages: Pages,
    meta: HopperMetadata,
    *,
    sm_scale: float,
    soft_cap: float | None,
    interpret: bool = False,
) -> Float[Array, "T H C"]:
    """Attention of every real token over its row's pages; zeros for the others.

    Raises ValueError for pages of another type than bfloat16 or float16, and for other heads than were prepared for.
    """
    heads = Heads(q.shape[1], layout.geometry(kv_pages)[1], q.shape[2])
    if kv_pages.dtype not in (jnp.bfloat16, jnp.float16):
        raise ValueError(
            f"kv_pages are {kv_pages.dtype}, but the Hopper kernels take bfloat16 or float16 (keep the cache in one of "
            "these, or use implementation 'xla')"
        )
    if meta.heads != heads:
        raise ValueError(f"metadata was prepared for {meta.heads}, but the call has {heads}")
    kv_pages = layout.from_canonical(kv_pages)
    kv = kv_pages.reshape(-1, 2 * kv_pages.shape[4])
    queries = q.astype(kv.dtype).reshape(q.shape[0], heads.num_kv, heads.group, heads.dim)
    queries = jnp.pad(queries, ((0, 0),) * 3 + ((0, kv_pages.shape[4] - heads.dim),))
    options: dict[str, Any] = dict(sm_scale=sm_scale, soft_cap=soft_cap, options=_options(interpret))
    out = _singles(queries, kv, meta, options)
    if not meta.uniform:
        out = jnp.where((meta.place >= 0)[:, None, None, None], _tiles(queries, kv, meta, options), out)
    return out[..., : heads.dim].reshape(q.shape).astype(q.dtype)


def _options(interpret: bool) -> dict[str, Any]:
    """How a kernel is to be compiled, or interpreted."""
    if interpret:
        return dict(interpret=plgpu.InterpretGPUParams())
    return dict(compiler_params=plgpu.CompilerParams(approx_math=True))


def _singles(q: Float[Array, "T K G C"], kv, meta: HopperMetadata, options) -> Float[Array, "T K G C"]:
    """Results of the tokens that are singles, zeros for the others."""
    tokens, heads, group, width = q.shape
    n, per_group = chunks(meta.heads)
    size = ceil_div(group, per_group)  # heads in a chunk; its other columns are padding
    parted = jnp.pad(q, ((0, 0), (0, 0), (0, per_group * size - group), (0, 0)))
    parted = jnp.pad(parted.reshape(tokens, -1, size, width), ((0, 0), (0, 0), (0, n - size), (0, 0)))
    done = singles.attend(parted, kv, meta, **options)[..., :size]
    done = done.transpose(0, 1, 3, 2).reshape(-1, heads, per_group * size, width)[:, :, :group]
    return jnp.where((meta.single >= 0)[:, None, None, None], done[jnp.maximum(meta.single, 0)], 0)


def _tiles(q: Float[Array, "T K G C"], kv, meta: HopperMetadata, options) -> Float[Array, "T K G C"]:
    """Results of the tokens that stand in tiles, anything for the others."""
    tokens, heads, group, width = q.shape
    rows = q.transpose(1, 0, 2, 3).reshape(heads, tokens * group, width)[:, meta.queries]
    done = tiles.attend(rows, kv, meta, **options)
    at = jnp.maximum(meta.place, 0)[:, None] + jnp.arange(group)[None]
    return done[:, at].transpose(1, 0, 2, 3)


def write(
    kv_pages: Pages,
    k: Float[Array, "T K C"],
    v: Float[Array, "T K C"],
    meta: HopperMetadata,
    *,
    interpret: bool = False,
) -> Pages:
    """Pages with each real token's K and V in place. There is nothing to `interpret`."""
    if layout.is_canonical(kv_pages):
        return layout.to_canonical(write(layout.from_canonical(kv_pages), k, v, meta), kv_pages.shape[3])
    pages, heads, page_size, _, width = kv_pages.shape
    new = jnp.pad(jnp.stack([k, v], axis=2).astype(kv_pages.dtype), ((0, 0),) * 3 + ((0, width - k.shape[2]),))
    row = (meta.write_page[:, None] * heads + jnp.arange(heads)[None]) * page_size + meta.write_slot[:, None]
    # padding falls outside, each token at a place of its own: XLA may then write all of them at once, without atomics
    outside = pages * heads * page_size + jnp.arange(row.size, dtype=row.dtype).reshape(row.shape)
    row = jnp.where(meta.write_page[:, None] < 0, outside, row)
    flat = kv_pages.reshape(-1, 2 * width).at[row.reshape(-1)]
    return flat.set(new.reshape(-1, 2 * width), mode="drop", unique_indices=True).reshape(kv_pages.shape)
