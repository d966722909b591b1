"""How K/V pages lie in memory: the canonical layout everyone can name, and the one the XLA loops want.

Canonical is `[pages, page_size, 2K, C]` with K0, V0, K1, V1, ... The XLA implementation keeps `[pages, K, 2, page_size, C]`:
heads before tokens, so that a gathered page is already the right-hand side of a batched product. Four axes mean
canonical and five mean XLA's, so an array says itself which one it is.
"""

import jax
from jaxtyping import Array, Float

CanonicalPages = Float[Array, "pages S heads2 C"]
HeadMajorPages = Float[Array, "pages K 2 S C"]
Pages = Float[Array, "..."]


def head_major_shape(num_pages: int, page_size: int, num_kv_heads: int, head_dim: int) -> tuple[int, ...]:
    """Shape of XLA's own layout."""
    return (num_pages, num_kv_heads, 2, page_size, head_dim)


def is_canonical(kv_pages: jax.Array | jax.ShapeDtypeStruct) -> bool:
    """True for the canonical layout, False for XLA's own. ValueError for anything else."""
    if kv_pages.ndim == 4 and kv_pages.shape[2] % 2 == 0:
        return True
    if kv_pages.ndim == 5 and kv_pages.shape[2] == 2:
        return False
    raise ValueError(
        f"kv_pages has shape {tuple(kv_pages.shape)}; expected [pages, page_size, 2K, C] or [pages, K, 2, page_size, C] "
        "(use allocate_pages)"
    )


def page_size_of(kv_pages: jax.Array | jax.ShapeDtypeStruct) -> int:
    """Tokens in a page, in either layout."""
    return kv_pages.shape[1] if is_canonical(kv_pages) else kv_pages.shape[3]


def num_kv_heads_of(kv_pages: jax.Array | jax.ShapeDtypeStruct) -> int:
    """K/V heads, in either layout."""
    return kv_pages.shape[2] // 2 if is_canonical(kv_pages) else kv_pages.shape[1]


def to_canonical(kv_pages: Pages) -> CanonicalPages:
    """The canonical form of pages in either layout (a copy, for tests and tools)."""
    if is_canonical(kv_pages):
        return kv_pages
    n, k, _, s, c = kv_pages.shape
    return kv_pages.transpose(0, 3, 1, 2, 4).reshape(n, s, 2 * k, c)


def to_head_major(kv_pages: Pages) -> HeadMajorPages:
    """XLA's own form of pages in either layout (a copy, for tests and tools)."""
    if not is_canonical(kv_pages):
        return kv_pages
    n, s, k2, c = kv_pages.shape
    return kv_pages.reshape(n, s, k2 // 2, 2, c).transpose(0, 2, 3, 1, 4)
