"""Attention and the K/V write on Hopper, in the form that the seam (`implementation.py`) wants.

Writing is separate from attention and left to XLA: a scatter of T x K rows of 2C' numbers into the donated pages. Fused
into attention, a program would have to wait for those that write its row's last page, or to take the new tokens from the
operands: a second path into the loop that bounds everything, to save one launch and one trip of T x 2K x C numbers
through the second-level cache, where increments read T x length x 2K x C.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.ragged_paged_attention.layout import Heads, Pages, Use
from pallas_kernels.ragged_paged_attention.mosaic_gpu import layout
from pallas_kernels.ragged_paged_attention.mosaic_gpu.metadata import HopperMetadata
from pallas_kernels.ragged_paged_attention.target import Target

HOPPER = ("H100", "H200", "H20", "H800", "GH200")


def why_not(target: Target) -> str | None:
    """None for NVIDIA's Hopper generation."""
    if target.platform != "gpu":
        return "its kernels are for NVIDIA GPUs"
    if not any(name in target.kind.split() for name in HOPPER):
        return f"its kernels use wgmma, which only NVIDIA's Hopper generation has ({', '.join(HOPPER)})"
    return None


def limits(use: Use) -> str | None:
    """What the kernels do not serve: other types than 16-bit floats, wide heads, pages that no copy can begin in."""
    if use.dtype is not None and jnp.dtype(use.dtype) not in (jnp.bfloat16, jnp.float16):
        return f"its kernels take pages of bfloat16 or float16, not {jnp.dtype(use.dtype)}"
    if use.head_dim is not None and use.head_dim > layout.MAX_HEAD_DIM:
        return f"head_dim = {use.head_dim} is above {layout.MAX_HEAD_DIM}, what its kernels hold"
    if use.page_size is not None and use.page_size % layout.ALIGNED:
        return f"page_size = {use.page_size} is no multiple of {layout.ALIGNED}"
    return None


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

    Raises ValueError for other heads than were prepared for.
    """
    # loads Mosaic's compiler, which a process on other hardware need not wait for
    from pallas_kernels.ragged_paged_attention.mosaic_gpu import attention

    heads = Heads(q.shape[1], layout.geometry(kv_pages)[1], q.shape[2])
    if meta.heads != heads:
        raise ValueError(f"metadata was prepared for {meta.heads}, but the call has {heads}; prepare it for these")
    kv_pages = layout.from_canonical(kv_pages)
    return attention.attend(q, kv_pages, meta, sm_scale=sm_scale, soft_cap=soft_cap, interpret=interpret)


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
    flat = kv_pages.reshape(-1, 2 * width).at[row.reshape(-1)]  # only leading axes are indexed: no transposed copy
    return flat.set(new.reshape(-1, 2 * width), mode="drop", unique_indices=True).reshape(kv_pages.shape)
