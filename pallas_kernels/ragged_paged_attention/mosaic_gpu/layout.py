"""How K/V pages lie in memory for Hopper: a page of one head is one stretch, with each token's K beside its V.

The layout is `[pages, K, S, 2, C']`. Read as rows of 2C' numbers, the tokens of one head in one page are S rows in a row,
so that one TMA copy brings K and V together, and pages that are copied below each other in shared memory form one matrix
whose left half is K and whose right half is V: both are operands of a wgmma as they lie. C' is C rounded up to whole
swizzled tiles of 64; the padding is zero. Five axes, of which the fourth is 2, tell it from the canonical layout.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.ragged_paged_attention.layout import CanonicalPages, Pages

ALIGNED = 8  # rows of a swizzled tile in shared memory: where a TMA copy can begin
LANES = 64  # 16-bit elements in a swizzled row of 128 bytes
MAX_HEAD_DIM = 256  # wider sums do not fit in a warpgroup's registers
BLOCK = 64  # K/V tokens that are computed at a time: wgmma's M
HopperPages = Float[Array, "pages K S 2 C"]


def padded(head_dim: int) -> int:
    """C': C rounded up to whole swizzled rows; beyond two of them to whole pairs, which two warpgroups share."""
    return head_dim + -head_dim % (LANES if head_dim <= 2 * LANES else 2 * LANES)


def piece(page_size: int) -> int:
    """Tokens in a copy: the largest stretch that lies in one page and divides a block."""
    return math.gcd(page_size, BLOCK)


def shape(num_pages: int, page_size: int, num_kv_heads: int, head_dim: int) -> tuple[int, ...]:
    """Shape of the pages. ValueError for sizes that the kernels could not serve."""
    if head_dim > MAX_HEAD_DIM:
        raise ValueError(f"head_dim = {head_dim} is above {MAX_HEAD_DIM}, what the Hopper kernels hold (use 'xla')")
    if page_size % 8:
        raise ValueError(
            f"page_size = {page_size} is no multiple of 8, as pages on Hopper must be (16 to 256 are fast)"
        )
    return (num_pages, num_kv_heads, page_size, 2, padded(head_dim))


def kept_dtype(dtype) -> jnp.dtype:
    """Pages stay in the model's type."""
    return jnp.dtype(dtype)


def is_canonical(kv_pages: jax.Array | jax.ShapeDtypeStruct) -> bool:
    """True for the canonical layout, False for Hopper's own. ValueError for anything else."""
    if kv_pages.ndim == 4 and kv_pages.shape[2] % 2 == 0:
        return True
    if kv_pages.ndim == 5 and kv_pages.shape[3] == 2:
        return False
    raise ValueError(
        f"kv_pages has shape {tuple(kv_pages.shape)}; expected [pages, page_size, 2K, C] or [pages, K, page_size, 2, C] "
        "(use allocate_pages)"
    )


def geometry(kv_pages: jax.Array | jax.ShapeDtypeStruct) -> tuple[int, int]:
    """Tokens in a page and K/V heads, in either layout."""
    if is_canonical(kv_pages):
        return kv_pages.shape[1], kv_pages.shape[2] // 2
    return kv_pages.shape[2], kv_pages.shape[1]


def from_canonical(kv_pages: Pages) -> HopperPages:
    """Hopper's own form of pages in either layout (a copy)."""
    if not is_canonical(kv_pages):
        return kv_pages
    n, s, heads2, c = kv_pages.shape
    turned = kv_pages.reshape(n, s, heads2 // 2, 2, c).transpose(0, 2, 1, 3, 4)
    return jnp.pad(turned, ((0, 0),) * 4 + ((0, padded(c) - c),))


def to_canonical(kv_pages: Pages, head_dim: int) -> CanonicalPages:
    """The canonical form of pages in either layout (a copy), without the padding of C'."""
    if is_canonical(kv_pages):
        return kv_pages
    n, heads, s, _, c = kv_pages.shape
    return kv_pages.transpose(0, 2, 1, 3, 4).reshape(n, s, 2 * heads, c)[..., :head_dim]
