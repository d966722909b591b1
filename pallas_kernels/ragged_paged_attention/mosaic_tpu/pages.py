"""How K/V pages lie in a TPU's memory: `[pages, S, K, J, 2, 128]`, a token on a major axis, its K and V side by side.

J pieces of 128 lanes make a head (C is padded up to them). The last two axes are one tile of memory whatever K is, so that
no number of heads is padded, a token (or a run of them) is one stretch that a copy can write in place, and for 16-bit
types the K and V of 128 channels are the halves of 32-bit words: one strided read of words brings both. A head-major
layout would spare that read its unpacking, but 16-bit tokens on the second-to-last axis cannot be written one by one.
Six axes mean this layout and four the canonical one, which is padded and copied at every call: good for tests only.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from pallas_kernels.ragged_paged_attention.layout import Pages

LANES = 128
CanonicalPages = Float[Array, "pages S heads2 C"]
PairedPages = Float[Array, "pages S K J 2 128"]


def pieces(head_dim: int) -> int:
    """J, the pieces of 128 lanes that a head of C elements takes."""
    return -(-head_dim // LANES)


def paired_shape(num_pages: int, page_size: int, num_kv_heads: int, head_dim: int) -> tuple[int, ...]:
    """Shape of the TPU's own layout."""
    return (num_pages, page_size, num_kv_heads, pieces(head_dim), 2, LANES)


def paired_dtype(dtype) -> jnp.dtype:
    """Type in which pages should be kept: kernels take float16 only under another name, and XLA copies an array to rename
    it. In float32 such pages stay in place.
    """
    dtype = jnp.dtype(dtype)
    return jnp.dtype(jnp.float32) if dtype == jnp.float16 else dtype


def is_paired(kv_pages: jax.Array | jax.ShapeDtypeStruct) -> bool:
    """True for the TPU's own layout, False for the canonical one. ValueError for anything else."""
    if kv_pages.ndim == 6 and kv_pages.shape[4:] == (2, LANES):
        return True
    if kv_pages.ndim == 4 and kv_pages.shape[2] % 2 == 0:
        return False
    raise ValueError(
        f"kv_pages has shape {tuple(kv_pages.shape)}; expected [pages, page_size, K, J, 2, {LANES}] or "
        "[pages, page_size, 2K, C] (use allocate_pages)"
    )


def geometry(kv_pages: jax.Array | jax.ShapeDtypeStruct) -> tuple[int, int]:
    """Tokens in a page and K/V heads, in either layout."""
    return kv_pages.shape[1], kv_pages.shape[2] if is_paired(kv_pages) else kv_pages.shape[2] // 2


def to_paired(kv_pages: Pages) -> PairedPages:
    """The TPU's own form of pages in either layout (a copy, for tests and tools); padding channels are zeros."""
    if is_paired(kv_pages):
        return kv_pages
    n, s, heads2, c = kv_pages.shape
    return pair(kv_pages[:, :, 0::2].reshape(n * s, -1, c), kv_pages[:, :, 1::2].reshape(n * s, -1, c)).reshape(
        paired_shape(n, s, heads2 // 2, c)
    )


def to_canonical(kv_pages: Pages, head_dim: int) -> CanonicalPages:
    """The canonical form of pages in either layout (a copy), without the padding of C."""
    if not is_paired(kv_pages):
        return kv_pages
    n, s, k, j, _, _ = kv_pages.shape
    return kv_pages.transpose(0, 1, 2, 4, 3, 5).reshape(n, s, 2 * k, j * LANES)[..., :head_dim]


def pair(k: Float[Array, "T K C"], v: Float[Array, "T K C"]) -> Float[Array, "T K J 2 128"]:
    """K and V of some tokens as pages hold them."""
    t, heads, c = k.shape
    split = lambda x: pad_lanes(x).reshape(t, heads, pieces(c), LANES)
    return jnp.stack([split(k), split(v)], axis=3)


def pad_lanes(x: Float[Array, "... C"]) -> Float[Array, "... CP"]:
    """`x` with zeros up to whole pieces."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % LANES)])


def carried(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`x` as kernels can take it: float16, which they cannot, under another name (see `paired_dtype`)."""
    return lax.bitcast_convert_type(x, jnp.bfloat16) if x.dtype == jnp.float16 else x
