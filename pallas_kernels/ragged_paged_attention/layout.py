"""How K/V pages lie in memory: the canonical layout everyone can name, and the one the XLA loops want.

Canonical is `[pages, page_size, 2K, C]` with K0, V0, K1, V1, ... The XLA implementation keeps `[pages, 2, K, page_size, C]`:
a half page is one stretch of memory, and its heads are the batch of a product that needs no transposition. For the same
reason its K half is stored transposed: element (token s, channel c) of a head lies at `c * page_size + s` of that head's
`page_size * C` numbers. Four axes mean canonical and five mean XLA's, so an array says itself which one it is.

On TPUs the XLA implementation keeps canonical pages: an array's last two axes are tiled there, so that turning a K half
around is no new view of it but a copy, of the whole cache, several times in a layer.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.ragged_paged_attention.target import current_target

CanonicalPages = Float[Array, "pages S heads2 C"]
HeadMajorPages = Float[Array, "pages 2 K S C"]
Pages = Float[Array, "..."]


@dataclasses.dataclass(frozen=True)
class Heads:
    """H query heads, K K/V heads, C elements each: what work is divided by, known before q and k exist."""

    num_q: int
    num_kv: int
    dim: int

    @property
    def group(self) -> int:
        """G, the query heads that share a K/V head."""
        return self.num_q // self.num_kv


@dataclasses.dataclass(frozen=True)
class Use:
    """What an implementation is asked to serve, as far as it is known: C, the page size, the type of the pages."""

    head_dim: int | None = None
    page_size: int | None = None
    dtype: Any = None


ANY_USE = Use()  # nothing is known


def head_major_shape(num_pages: int, page_size: int, num_kv_heads: int, head_dim: int) -> tuple[int, ...]:
    """Shape of XLA's own layout."""
    return (num_pages, 2, num_kv_heads, page_size, head_dim)


def canonical_shape(num_pages: int, page_size: int, num_kv_heads: int, head_dim: int) -> tuple[int, ...]:
    """Shape of the canonical layout."""
    return (num_pages, page_size, 2 * num_kv_heads, head_dim)


def xla_shape(num_pages: int, page_size: int, num_kv_heads: int, head_dim: int) -> tuple[int, ...]:
    """Shape of the pages that the XLA implementation keeps on the target."""
    shape = canonical_shape if tiles_arrays() else head_major_shape
    return shape(num_pages, page_size, num_kv_heads, head_dim)


def tiles_arrays() -> bool:
    """Whether arrays lie in tiles on the target."""
    return current_target().platform == "tpu"


def head_major_dtype(dtype) -> jnp.dtype:
    """Type in which XLA's own pages should be kept: before 0.11 XLA:CPU widens 16-bit pages to float32, all of them, in
    every step, so that keeping them in float32 is faster and takes less memory.
    """
    dtype = jnp.dtype(dtype)
    widens = jax.__version_info__ < (0, 11) and current_target().platform == "cpu"
    return jnp.dtype(jnp.float32) if dtype.itemsize == 2 and widens else dtype


def is_canonical(kv_pages: jax.Array | jax.ShapeDtypeStruct) -> bool:
    """True for the canonical layout, False for XLA's own. ValueError for anything else."""
    if kv_pages.ndim == 4 and kv_pages.shape[2] % 2 == 0:
        return True
    if kv_pages.ndim == 5 and kv_pages.shape[1] == 2:
        return False
    raise ValueError(
        f"kv_pages has shape {tuple(kv_pages.shape)}; expected [pages, page_size, 2K, C] or [pages, 2, K, page_size, C] "
        "(use allocate_pages)"
    )


def geometry(kv_pages: jax.Array | jax.ShapeDtypeStruct) -> tuple[int, int]:
    """Tokens in a page and K/V heads, in either layout."""
    if is_canonical(kv_pages):
        return kv_pages.shape[1], kv_pages.shape[2] // 2
    return kv_pages.shape[3], kv_pages.shape[2]


def to_canonical(kv_pages: Pages, head_dim: int) -> CanonicalPages:
    """The canonical form of pages in either layout (a copy, for tests and tools); C is nowhere padded here."""
    if is_canonical(kv_pages):
        return kv_pages
    n, _, heads, s, c = kv_pages.shape
    k = kv_pages[:, 0].reshape(n, heads, c, s).transpose(0, 3, 1, 2)
    v = kv_pages[:, 1].transpose(0, 2, 1, 3)
    return jnp.stack([k, v], axis=3).reshape(n, s, 2 * heads, c)


def to_xla(kv_pages: Pages) -> Pages:
    """The pages that the XLA implementation keeps on the target, of pages in either layout (a copy, for tests and tools)."""
    return to_canonical(kv_pages, kv_pages.shape[-1]) if tiles_arrays() else to_head_major(kv_pages)


def to_head_major(kv_pages: Pages) -> HeadMajorPages:
    """XLA's own form of pages in either layout (a copy, for tests and tools)."""
    if not is_canonical(kv_pages):
        return kv_pages
    n, s, heads2, c = kv_pages.shape
    pairs = kv_pages.reshape(n, s, heads2 // 2, 2, c)
    k = pairs[:, :, :, 0].transpose(0, 2, 3, 1).reshape(n, heads2 // 2, s, c)
    return jnp.stack([k, pairs[:, :, :, 1].transpose(0, 2, 1, 3)], axis=1)
