"""The public operations: pick the implementation that runs here, and check what is handed over."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.ragged_paged_attention import layout, xla
from pallas_kernels.ragged_paged_attention.layout import Pages, to_canonical
from pallas_kernels.ragged_paged_attention.metadata import Metadata, Tuning, build

__all__ = [
    "IMPLEMENTATIONS", "allocate_pages", "from_canonical", "pages_dtype", "pages_shape", "prepare", "ragged_paged_attention",
    "resolve", "to_canonical", "write_kv",
]  # fmt: skip

IMPLEMENTATIONS = ("xla", "mosaic_tpu", "mosaic_gpu")


def resolve(implementation: str | None = None) -> str:
    """The implementation that would run: the one asked for, or the best one built for this backend.

    Raises ValueError for an unknown name, NotImplementedError for one that is planned but not built.
    """
    if implementation is None or implementation == "xla":
        return "xla"
    if implementation in IMPLEMENTATIONS:
        raise NotImplementedError(f"attention implementation {implementation!r} is not built yet; use 'xla' or None")
    raise ValueError(f"attention implementation {implementation!r} is not one of {', '.join(IMPLEMENTATIONS)}")


def pages_shape(
    implementation: str | None, num_pages: int, page_size: int, num_kv_heads: int, head_dim: int
) -> tuple[int, ...]:
    """Shape of one layer's pages in the layout that the implementation wants; axis 0 is the page."""
    resolve(implementation)
    return layout.head_major_shape(num_pages, page_size, num_kv_heads, head_dim)


def pages_dtype(implementation: str | None, dtype) -> jnp.dtype:
    """Type to keep the pages of a model of type `dtype` in; it differs only where 16-bit pages could not stay in place."""
    resolve(implementation)
    return layout.head_major_dtype(dtype)


def allocate_pages(
    implementation: str | None, num_pages: int, page_size: int, num_kv_heads: int, head_dim: int, dtype
) -> Pages:
    """Zeroed pages for one layer (or for L layers, with L times as many pages)."""
    return jnp.zeros(pages_shape(implementation, num_pages, page_size, num_kv_heads, head_dim), dtype)


def from_canonical(implementation: str | None, kv_pages: Float[Array, "pages S heads2 C"]) -> Pages:
    """Canonical pages `[pages, page_size, 2K, C]` (K0, V0, K1, V1, ...) in the implementation's layout."""
    resolve(implementation)
    return layout.to_head_major(kv_pages)


def prepare(
    kv_lens: Int[Array, " R"],
    page_table: Int[Array, "R P"],
    cu_q_lens: Int[Array, " R1"],
    num_rows: Int[Array, " 1"],
    *,
    num_tokens: int,
    page_size: int,
    sliding_window: int | None = None,
    uniform: bool = False,
    implementation: str | None = None,
    tuning: Tuning | None = None,
) -> Metadata:
    """Everything that depends on the row table alone: compute it once in a step, hand it to every layer's operations.

    `num_tokens` is T, the length of the flat batch with its padding. `sliding_window` and `uniform` are those of the
    attention calls that will use it (layers with different windows need one each).
    """
    resolve(implementation)
    return build(
        kv_lens,
        page_table,
        cu_q_lens,
        num_rows,
        num_tokens=num_tokens,
        page_size=page_size,
        sliding_window=sliding_window,
        uniform=uniform,
        tuning=tuning or Tuning(),
    )


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
    resolve(implementation)
    heads = layout.num_kv_heads_of(kv_pages)
    if q.shape[1] % heads:
        raise ValueError(f"q has {q.shape[1]} heads, which is no multiple of the {heads} K/V heads in kv_pages")
    if sliding_window is not None and sliding_window < 1:
        raise ValueError(
            f"sliding_window = {sliding_window}, but a token sees at least itself (use None for no window)"
        )
    if metadata is None:
        metadata = prepare(
            kv_lens, page_table, cu_q_lens, num_rows, num_tokens=q.shape[0], page_size=layout.page_size_of(kv_pages),
            sliding_window=sliding_window, uniform=uniform, implementation=implementation,
        )  # fmt: skip
    _check(metadata, layout.page_size_of(kv_pages), q.shape[0])
    if (metadata.sliding_window, metadata.uniform) != (sliding_window, uniform):
        raise ValueError(
            f"metadata was prepared for sliding_window={metadata.sliding_window}, uniform={metadata.uniform}, but the "
            f"call says {sliding_window}, {uniform}; prepare one for each kind of layer"
        )
    with jax.named_scope("ragged_paged_attention"):
        return xla.attend(q, kv_pages, metadata, sm_scale=sm_scale, soft_cap=soft_cap)


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
    metadata: Metadata | None = None,
) -> Pages:
    """This iteration's K and V in their pages (converted to the pages' dtype), in place when `kv_pages` is donated.

    Padding tokens are written nowhere. The row table is that of `ragged_paged_attention`; `metadata` replaces it.
    """
    resolve(implementation)
    if metadata is None:
        metadata = prepare(
            kv_lens, page_table, cu_q_lens, num_rows, num_tokens=k.shape[0], page_size=layout.page_size_of(kv_pages),
            implementation=implementation,
        )  # fmt: skip
    _check(metadata, layout.page_size_of(kv_pages), k.shape[0])
    with jax.named_scope("write_kv"):
        return xla.write(kv_pages, k, v, metadata)


def _check(metadata: Metadata, page_size: int, num_tokens: int) -> None:
    prepared = (metadata.page_size, metadata.write_page.shape[0])
    if prepared != (page_size, num_tokens):
        raise ValueError(
            f"metadata was prepared for page_size and T = {prepared}, but the call has {(page_size, num_tokens)}"
        )
