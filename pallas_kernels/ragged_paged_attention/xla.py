"""Ragged paged attention in plain XLA: loops whose bounds follow the real lengths, so one program serves any mixture."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from pallas_kernels.ragged_paged_attention.layout import Pages, is_canonical
from pallas_kernels.ragged_paged_attention.metadata import Metadata, ceil_div, pages_per_block

NEG = -1e30  # finite, so that a wholly masked block is an identity instead of a NaN


def attend(
    q: Float[Array, "T H C"], kv_pages: Pages, meta: Metadata, *, sm_scale: float, soft_cap: float | None
) -> Float[Array, "T H C"]:
    """Attention of every real token over its row's pages; zeros for the others."""
    t, h, c = q.shape
    scaled = q.astype(jnp.float32) * sm_scale
    out = _singles(scaled, kv_pages, meta, soft_cap)
    out = jnp.pad(out, ((0, t - out.shape[0]), (0, 0), (0, 0)))
    if not meta.uniform:
        out = _tiles(scaled, kv_pages, meta, soft_cap, out)
    return jnp.where(meta.token_valid[:, None, None], out, 0).astype(q.dtype)


def write(kv_pages: Pages, k: Float[Array, "T K C"], v: Float[Array, "T K C"], meta: Metadata) -> Pages:
    """Pages with each real token's K and V in place; padding tokens fall outside and are dropped."""
    page = jnp.where(meta.write_page < 0, kv_pages.shape[0], meta.write_page)
    new = jnp.stack([k, v], axis=2).astype(kv_pages.dtype)
    if is_canonical(kv_pages):
        return kv_pages.at[page, meta.write_slot].set(new.reshape(new.shape[0], -1, new.shape[3]), mode="drop")
    return kv_pages.at[page, :, :, meta.write_slot].set(new, mode="drop")


def _fetch(kv_pages: Pages, pages: Int[Array, "N B"]) -> tuple[Float[Array, "N K T C"], Float[Array, "N K T C"]]:
    """K and V of N lists of pages as float32, heads before tokens."""
    n, per = pages.shape
    if is_canonical(kv_pages):
        _, s, k2, c = kv_pages.shape
        got = kv_pages.at[pages].get(mode="promise_in_bounds").astype(jnp.float32)
        got = got.reshape(n, per * s, k2 // 2, 2, c)
        return got[:, :, :, 0].transpose(0, 2, 1, 3), got[:, :, :, 1].transpose(0, 2, 1, 3)
    _, heads, _, s, c = kv_pages.shape
    flat = kv_pages.reshape(-1, s * c)
    at = (pages[:, None, :] * heads + jnp.arange(heads)[None, :, None]) * 2
    return tuple(
        flat.at[at + i].get(mode="promise_in_bounds").astype(jnp.float32).reshape(n, heads, per * s, c) for i in (0, 1)
    )


def _fold(state, scores, valid, v, soft_cap):
    """One more K/V block in a running softmax. scores `[N, K, M, B]`, valid broadcasts to it, v `[N, K, B, C]`."""
    top, total, acc = state
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    scores = jnp.where(valid, scores, NEG)
    new_top = jnp.maximum(top, scores.max(-1))
    weight = jnp.exp(scores - new_top[..., None])
    keep = jnp.exp(top - new_top)
    product = jnp.einsum("nkms,nksc->nkmc", weight, v, preferred_element_type=jnp.float32)
    return new_top, total * keep + weight.sum(-1), acc * keep[..., None] + product


def _start(n: int, k: int, m: int, c: int):
    return jnp.full((n, k, m), NEG), jnp.zeros((n, k, m)), jnp.zeros((n, k, m, c))


def _singles(q: Float[Array, "T H C"], kv_pages: Pages, meta: Metadata, soft_cap) -> Float[Array, "N H C"]:
    """One token against its own pages, a group of tokens at a time."""
    _, h, c = q.shape
    n, groups = meta.order.shape[0], meta.single_blocks.shape[0]
    size, per = n // groups, pages_per_block(meta.page_size, meta.tuning.single_block)
    block = per * meta.page_size
    kv_heads = kv_pages.shape[2] // 2 if is_canonical(kv_pages) else kv_pages.shape[1]
    sorted_q = q[meta.order].reshape(n, kv_heads, h // kv_heads, c)

    def group(g, out):
        at = lambda x: lax.dynamic_slice_in_dim(x, g * size, size)
        mine, end, low, first = at(sorted_q), at(meta.single_len), at(meta.single_low), at(meta.single_first)

        def body(j, state):
            pages = lax.dynamic_slice(meta.single_pages, (g * size, j * per), (size, per))
            k, v = _fetch(kv_pages, pages)
            position = first[:, None] + j * block + jnp.arange(block)[None]
            v = jnp.where((position < end[:, None])[:, None, :, None], v, 0)
            valid = (position >= low[:, None]) & (position < end[:, None])
            scores = jnp.einsum("nkmc,nksc->nkms", mine, k, preferred_element_type=jnp.float32)
            return _fold(state, scores, valid[:, None, None], v, soft_cap)

        _, total, acc = lax.fori_loop(0, meta.single_blocks[g], body, _start(size, *mine.shape[1:]))
        return lax.dynamic_update_slice_in_dim(out, acc / jnp.maximum(total, 1e-30)[..., None], g * size, 0)

    # padding singles come last, so whole groups of them have no block to visit
    out = lax.fori_loop(0, (meta.single_blocks > 0).sum(), group, jnp.zeros((n, *sorted_q.shape[1:])))
    return out[meta.place].reshape(-1, h, c)


def _tiles(q: Float[Array, "T H C"], kv_pages: Pages, meta: Metadata, soft_cap, out) -> Float[Array, "T H C"]:
    """A tile of one row's tokens against that row's pages, causally."""
    t, h, c = q.shape
    tile, per = meta.tuning.tile, pages_per_block(meta.page_size, meta.tuning.tile_block)
    block = per * meta.page_size
    kv_heads = kv_pages.shape[2] // 2 if is_canonical(kv_pages) else kv_pages.shape[1]
    # a row's last tile reaches past its end: the next row's tiles, which come later, overwrite that
    q, out = (jnp.pad(x, ((0, tile), (0, 0), (0, 0))) for x in (q, out))

    def one(i, out):
        row, position = meta.tile_row[i], meta.tile_position[i] + jnp.arange(tile)
        mine = lax.dynamic_slice_in_dim(q, meta.tile_start[i], tile).reshape(tile, kv_heads, h // kv_heads, c)
        mine = mine.transpose(1, 2, 0, 3).reshape(1, kv_heads, -1, c)
        end = jnp.minimum(meta.kv_lens[row], meta.tile_position[i] + tile)
        first = 0
        if meta.sliding_window is not None:
            first = jnp.maximum(meta.tile_position[i] - meta.sliding_window + 1, 0) // block

        def body(j, state):
            k, v = _fetch(kv_pages, lax.dynamic_slice(meta.row_pages, (row, j * per), (1, per)))
            seen = j * block + jnp.arange(block)
            v = jnp.where((seen < end)[None, None, :, None], v, 0)
            valid = (seen[None] <= position[:, None]) & (seen[None] < end)
            if meta.sliding_window is not None:
                valid &= seen[None] > position[:, None] - meta.sliding_window
            scores = jnp.einsum("nkmc,nksc->nkms", mine, k, preferred_element_type=jnp.float32)
            return _fold(state, scores, jnp.tile(valid, (h // kv_heads, 1))[None, None], v, soft_cap)

        _, total, acc = lax.fori_loop(first, ceil_div(end, block), body, _start(*mine.shape))
        done = (acc / total[..., None]).reshape(kv_heads, -1, tile, c).transpose(2, 0, 1, 3).reshape(tile, h, c)
        return lax.dynamic_update_slice_in_dim(out, done, meta.tile_start[i], 0)

    return lax.fori_loop(0, meta.num_tiles, one, out)[:t]
