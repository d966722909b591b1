"""The public operations: pick the implementation that runs here, and check what is handed over."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.ragged_paged_attention import implementation as built
from pallas_kernels.ragged_paged_attention.implementation import Metadata
from pallas_kernels.ragged_paged_attention.layout import Heads, Pages, Use, canonical_shape, head_major_shape

__all__ = [
    "IMPLEMENTATIONS", "Heads", "allocate_pages", "from_canonical", "heads_axis", "pages_dtype", "pages_shape",
    "passed_over", "prepare", "ragged_paged_attention", "resolve", "to_canonical", "write_kv",
]  # fmt: skip

IMPLEMENTATIONS = built.NAMES


def resolve(
    implementation: str | None = None, *, head_dim: int | None = None, page_size: int | None = None, dtype: Any = None
) -> str:
    """The implementation that would run: the one asked for, or the best one for the hardware at hand (or described by
    the mesh that `jax.set_mesh` has set), and for heads, pages and the type of the pages, as far as they are named.

    Raises ValueError for an unknown name or what it does not serve, NotImplementedError for one that cannot run there.
    """
    return built.find(implementation, Use(head_dim, page_size, dtype)).name


def passed_over(
    implementation: str, *, head_dim: int | None = None, page_size: int | None = None, dtype: Any = None
) -> str | None:
    """Why the hardware's own kernels do not run where `implementation` does: "no mosaic_gpu on NVIDIA B200: its kernels
    ...". None where they run or could, and on hardware for which there are none (CPUs).
    """
    return built.passed_over(implementation, Use(head_dim, page_size, dtype))


def pages_shape(
    implementation: str | None, num_pages: int, page_size: int, num_kv_heads: int, head_dim: int
) -> tuple[int, ...]:
    """Shape of one layer's pages in the layout that the implementation wants; axis 0 is the page."""
    return built.find(implementation, interpret=True).pages_shape(num_pages, page_size, num_kv_heads, head_dim)


def heads_axis(implementation: str | None) -> int:
    """The axis of such pages that is split where several devices share the K/V heads, each with a stretch of them."""
    return built.find(implementation, interpret=True).heads_axis


def pages_dtype(implementation: str | None, dtype) -> jnp.dtype:
    """Type to keep the pages of a model of type `dtype` in; it differs only where 16-bit pages could not stay in place."""
    return built.find(implementation, interpret=True).pages_dtype(dtype)


def allocate_pages(
    implementation: str | None, num_pages: int, page_size: int, num_kv_heads: int, head_dim: int, dtype
) -> Pages:
    """Zeroed pages for one layer (or for L layers, with L times as many pages)."""
    implementation = built.find(implementation, Use(head_dim, page_size, dtype), interpret=True).name
    return jnp.zeros(pages_shape(implementation, num_pages, page_size, num_kv_heads, head_dim), dtype)


def from_canonical(implementation: str | None, kv_pages: Float[Array, "pages S heads2 C"]) -> Pages:
    """Canonical pages `[pages, page_size, 2K, C]` (K0, V0, K1, V1, ...) in the implementation's layout."""
    return built.find(implementation, interpret=True).from_canonical(kv_pages)


def to_canonical(implementation: str | None, kv_pages: Pages, head_dim: int) -> Float[Array, "pages S heads2 C"]:
    """The canonical form of pages in the implementation's layout (a copy, for tests and tools). `head_dim` is C, which
    pages that are padded do not tell.
    """
    return built.find(implementation, interpret=True).to_canonical(kv_pages, head_dim)


def prepare(
    kv_lens: Int[Array, " R"],
    page_table: Int[Array, "R P"],
    cu_q_lens: Int[Array, " R1"],
    num_rows: Int[Array, " 1"],
    *,
    num_tokens: int,
    page_size: int,
    heads: Heads,
    sliding_window: int | None = None,
    uniform: bool = False,
    increments: bool = False,
    dtype: Any = None,
    implementation: str | None = None,
    interpret: bool = False,
    tuning: Any = None,
) -> Metadata:
    """Everything that depends on the row table alone: compute it once in a step, hand it to every layer's operations.

    `num_tokens` is T, the length of the flat batch with its padding; `heads` what q and the pages will have. `sliding_window`
    and `uniform` are those of the attention calls that will use it (layers with different windows need one each).
    `increments` promises that no row has more than one token: what only longer rows need is then left out of the programs,
    and what is made of a longer row is undefined. `dtype` is that of the pages, None for a 16-bit one; sizes of work follow
    from it. `tuning` has the implementation's own sizes, None those that were measured or derived.
    """
    return built.find(implementation, interpret=interpret).prepare(
        *map(jnp.asarray, (kv_lens, page_table, cu_q_lens, num_rows)), num_tokens=num_tokens, page_size=page_size,
        heads=heads, sliding_window=sliding_window, uniform=uniform, increments=increments, dtype=dtype, tuning=tuning,
    )  # fmt: skip


def ragged_paged_attention(
    q: Float[Array, "T H C"],
    kv_pages: Pages,
    kv_lens: Int[Array, " R"],
    page_table: Int[Array, "R P"],
    cu_q_lens: Int[Array, " R1"],
    num_rows: Int[Array, " 1"],
    *,
    sm_scale: float,
    sliding_window: int | None = None,
    soft_cap: float | None = None,
    uniform: bool = False,
    implementation: str | None = None,
    interpret: bool = False,
    metadata: Metadata | None = None,
) -> Float[Array, "T H C"]:
    """Causal attention of a flat batch of rows over their pages; `q`'s dtype, accumulated in float32.

    Row r owns tokens `cu_q_lens[r]` to `cu_q_lens[r + 1]` of `q`; its query i stands at position
    `kv_lens[r] - q_len + i`, and `kv_lens[r]` counts this iteration's tokens, which `write_kv` has put in place. Position p
    lies in page `page_table[r, p // page_size]`. A sliding window of W is the token itself and the W - 1 before it.
    Rows past `num_rows` and tokens past the last row are padding and come back as zeros; whatever stands there, in
    unused pages or behind a row's end is never used, NaN included. Rows with one token should come first in the
    batch: they are the fast ones.

    `uniform` makes a token's result bitwise independent of the other rows, of its row's place and of how its prompt was
    chunked (for a given T, R and P). `metadata` (from `prepare`) replaces the four row-table arguments, which are then
    not read. `interpret` runs Pallas kernels in their interpreter and means nothing to "xla".
    """
    how = built.find(implementation, Use(q.shape[2], None, kv_pages.dtype), interpret=interpret)
    page_size, num_kv_heads = _geometry(how, kv_pages, q.shape[2])
    if q.shape[1] % num_kv_heads:
        raise ValueError(f"q has {q.shape[1]} heads, which is no multiple of the {num_kv_heads} K/V heads in kv_pages")
    if sliding_window is not None and sliding_window < 1:
        raise ValueError(
            f"sliding_window = {sliding_window}, but a token sees at least itself (use None for no window)"
        )
    if metadata is None:
        metadata = prepare(
            kv_lens, page_table, cu_q_lens, num_rows, num_tokens=q.shape[0], page_size=page_size,
            heads=Heads(q.shape[1], num_kv_heads, q.shape[2]), sliding_window=sliding_window, uniform=uniform,
            dtype=kv_pages.dtype, implementation=how.name, interpret=interpret,
        )  # fmt: skip
    _check(metadata, page_size, q.shape[0])
    if (metadata.sliding_window, metadata.uniform) != (sliding_window, uniform):
        raise ValueError(
            f"metadata was prepared for sliding_window={metadata.sliding_window}, uniform={metadata.uniform}, but the "
            f"call says {sliding_window}, {uniform}; prepare one for each kind of layer"
        )
    with jax.named_scope("ragged_paged_attention"):
        return how.attend(q, kv_pages, metadata, sm_scale=sm_scale, soft_cap=soft_cap, interpret=interpret)


def write_kv(
    kv_pages: Pages,
    k: Float[Array, "T K C"],
    v: Float[Array, "T K C"],
    kv_lens: Int[Array, " R"],
    page_table: Int[Array, "R P"],
    cu_q_lens: Int[Array, " R1"],
    num_rows: Int[Array, " 1"],
    *,
    implementation: str | None = None,
    interpret: bool = False,
    metadata: Metadata | None = None,
) -> Pages:
    """This iteration's K and V in their pages (converted to the pages' dtype), in place when `kv_pages` is donated.

    Padding tokens are written nowhere. The row table is that of `ragged_paged_attention`; `metadata` replaces it.
    """
    how = built.find(implementation, Use(k.shape[2], None, kv_pages.dtype), interpret=interpret)
    page_size, num_kv_heads = _geometry(how, kv_pages, k.shape[2])
    if metadata is None:
        metadata = prepare(
            kv_lens, page_table, cu_q_lens, num_rows, num_tokens=k.shape[0], page_size=page_size,
            heads=Heads(num_kv_heads, num_kv_heads, k.shape[2]), dtype=kv_pages.dtype, implementation=how.name,
            interpret=interpret,
        )  # fmt: skip
    _check(metadata, page_size, k.shape[0])
    with jax.named_scope("write_kv"):
        return how.write(kv_pages, k, v, metadata, interpret=interpret)


def _geometry(how: built.Implementation, kv_pages: Pages, head_dim: int) -> tuple[int, int]:
    """Page size and K/V heads of pages in either layout. ValueError where they are not for heads of `head_dim`."""
    num_pages, (page_size, num_kv_heads) = kv_pages.shape[0], how.geometry(kv_pages)
    of = (num_pages, page_size, num_kv_heads, head_dim)
    fitting = {canonical_shape(*of), how.pages_shape(*of)}
    if how.name == "xla":
        fitting.add(head_major_shape(*of))  # its own on one kind of hardware, taken on all
    if tuple(kv_pages.shape) not in fitting:
        raise ValueError(
            f"kv_pages has shape {tuple(kv_pages.shape)}, but heads of {head_dim} elements need one of {sorted(fitting)}"
        )
    return page_size, num_kv_heads


def _check(metadata: Metadata, page_size: int, num_tokens: int) -> None:
    prepared = (metadata.page_size, metadata.num_tokens)
    if prepared != (page_size, num_tokens):
        raise ValueError(
            f"metadata was prepared for page_size and T = {prepared}, but the call has {(page_size, num_tokens)}"
        )
