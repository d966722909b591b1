"""Ragged paged attention in plain XLA: loops whose bounds follow the real lengths, so one program serves any mixture.

What the CPU charges for is the trip through memory and the number of operations in a loop's body, not the arithmetic. So
a body is two gathers of whole half pages, two batched products with the page as a batch axis, and a running softmax.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from pallas_kernels.ragged_paged_attention.layout import Pages, geometry, is_canonical
from pallas_kernels.ragged_paged_attention.metadata import Metadata, ceil_div

NEG = -1e30  # finite, so that a wholly masked block is an identity instead of a NaN
State = tuple[Float[Array, "N K M"], Float[Array, "N K M"], Float[Array, "N K M C"]]  # running top, total, sum


class Scores(NamedTuple):
    """What is done to products of queries and keys, in float32: queries that were scaled would have to be rounded again."""

    sm_scale: float
    soft_cap: float | None

    def __call__(self, products: Float[Array, "..."]) -> Float[Array, "..."]:
        if self.soft_cap is None:
            return products * self.sm_scale
        return self.soft_cap * jnp.tanh(products * (self.sm_scale / self.soft_cap))


def attend(
    q: Float[Array, "T H C"],
    kv_pages: Pages,
    meta: Metadata,
    *,
    sm_scale: float,
    soft_cap: float | None,
    interpret: bool = False,
) -> Float[Array, "T H C"]:
    """Attention of every real token over its row's pages; zeros for the others. There is nothing to `interpret`."""
    t, h, c = q.shape
    _, k = geometry(kv_pages)
    # products run in the cache's own type: bfloat16 operands are twice as fast and what the cache holds is no finer
    dtype = kv_pages.dtype if kv_pages.dtype == jnp.bfloat16 else jnp.float32
    grouped, how = q.astype(dtype).reshape(t, k, h // k, c), Scores(sm_scale, soft_cap)
    out = _singles(grouped, kv_pages, meta, how)
    out = jnp.pad(out, ((0, t - out.shape[0]), (0, 0), (0, 0), (0, 0)))
    if not meta.uniform:
        out = _tiles(grouped, kv_pages, meta, how, out)
    return out.reshape(t, h, c).astype(q.dtype)


def write(
    kv_pages: Pages, k: Float[Array, "T K C"], v: Float[Array, "T K C"], meta: Metadata, *, interpret: bool = False
) -> Pages:
    """Pages with each real token's K and V in place; padding tokens fall outside and are dropped."""
    page = jnp.where(meta.write_page < 0, kv_pages.shape[0], meta.write_page)
    k, v = k.astype(kv_pages.dtype), v.astype(kv_pages.dtype)
    if is_canonical(kv_pages):
        new = jnp.stack([k, v], axis=2).reshape(k.shape[0], -1, k.shape[2])
        return kv_pages.at[page, meta.write_slot].set(new, mode="drop")
    n, _, heads, s, c = kv_pages.shape
    turned = kv_pages.reshape(n, 2, heads, c, s).at[page, 0, :, :, meta.write_slot].set(k, mode="drop")
    return turned.reshape(n, 2, heads, s, c).at[page, 1, :, meta.write_slot].set(v, mode="drop")


def _fetch(
    kv_pages: Pages, pages: Int[Array, "N P"], used: Bool[Array, "N P S"], dtype
) -> tuple[Float[Array, "N P K C S"], Float[Array, "N P K S C"]]:
    """K (transposed) and V of N lists of P pages. V is zero where nothing is stored: 0 x NaN would be NaN."""
    n, per = pages.shape
    if is_canonical(kv_pages):
        _, s, heads2, c = kv_pages.shape
        both = kv_pages.at[pages].get(mode="promise_in_bounds").reshape(n, per, s, heads2 // 2, 2, c)
        k, v = both[..., 0, :].transpose(0, 1, 3, 4, 2), both[..., 1, :].transpose(0, 1, 3, 2, 4)
    else:
        _, _, heads, s, c = kv_pages.shape
        halves = kv_pages.reshape(-1, heads * s * c)
        k = halves.at[pages * 2].get(mode="promise_in_bounds").reshape(n, per, heads, c, s)
        v = halves.at[pages * 2 + 1].get(mode="promise_in_bounds").reshape(n, per, heads, s, c)
    v = jnp.where(used[:, :, None, :, None], v, jnp.zeros((), v.dtype))
    return k.astype(dtype), v.astype(dtype)


def _start(n: int, k: int, m: int, c: int) -> State:
    return jnp.full((n, k, m), NEG), jnp.zeros((n, k, m)), jnp.zeros((n, k, m, c))


def _fold(
    state: State,
    q: Float[Array, "N P K M C"],
    k: Float[Array, "N P K C S"],
    v: Float[Array, "N P K S C"],
    valid: Bool[Array, "N P 1 #M S"],
    how: Scores,
) -> State:
    """One more block of P pages in N running softmaxes, each over its own pages."""
    top, total, acc = state
    scores = how(jnp.einsum("npkmc,npkcs->npkms", q, k, preferred_element_type=jnp.float32))
    scores = jnp.where(valid, scores, NEG)
    new_top = jnp.maximum(top, scores.max((1, 4)))
    weight = jnp.exp(scores - new_top[:, None, :, :, None])
    keep = jnp.exp(top - new_top)
    product = jnp.einsum("npkms,npksc->npkmc", weight.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return new_top, total * keep + weight.sum((1, 4)), acc * keep[..., None] + product.sum(1)


def _singles(q: Float[Array, "T K G C"], kv_pages: Pages, meta: Metadata, how: Scores) -> Float[Array, "N K G C"]:
    """One token against its own pages, a group of tokens at a time; zeros for tokens that are no singles."""
    size, per, page_size = meta.single_group, meta.single_block, meta.page_size
    groups = meta.single_blocks.shape[0]
    sorted_q = q[: meta.order.shape[0]] if groups == 1 else q[meta.order]

    def group(start) -> Float[Array, "size K G C"]:
        at = lambda x: lax.dynamic_slice_in_dim(x, start, size)
        mine, end, low, first = at(sorted_q), at(meta.single_end), at(meta.single_low), at(meta.single_first)
        repeated = jnp.broadcast_to(mine[:, None], (size, per, *mine.shape[1:]))

        def body(j, state: State) -> State:
            pages = lax.dynamic_slice(meta.single_pages, (start, j * per), (size, per))
            position = jnp.arange(per * page_size).reshape(1, per, page_size) + (j * per * page_size)
            position = position + first[:, None, None]
            used = position < end[:, None, None]
            k, v = _fetch(kv_pages, pages, used, q.dtype)
            valid = used if meta.sliding_window is None else used & (position >= low[:, None, None])
            return _fold(state, repeated, k, v, valid[:, :, None, None], how)

        _, total, acc = lax.fori_loop(0, meta.single_blocks[start // size], body, _start(*mine.shape))
        return acc / jnp.maximum(total, 1e-30)[..., None]

    if groups == 1:
        return group(0)
    put = lambda g, out: lax.dynamic_update_slice_in_dim(out, group(g * size), g * size, 0)
    # padding stands last, so that whole groups of it have nothing to visit
    out = lax.fori_loop(0, (meta.single_blocks > 0).sum(), put, jnp.zeros(sorted_q.shape))
    return out[meta.place]


def _tiles(
    q: Float[Array, "T K G C"], kv_pages: Pages, meta: Metadata, how: Scores, out: Float[Array, "T K G C"]
) -> Float[Array, "T K G C"]:
    """`out` with the tokens of all other rows filled in: a tile of one row's tokens against that row's pages, causally."""
    t, heads, group, c = q.shape
    size, per, page_size = meta.tile_size, meta.tile_block, meta.page_size
    block = per * page_size

    def one(i, out):
        start = jnp.minimum(meta.tile_start[i], t - size)  # may begin in the row before: those tokens are masked
        row, begin = meta.tile_row[i], meta.tile_position[i]
        position = begin - meta.tile_start[i] + start + jnp.arange(size)
        end = jnp.minimum(meta.kv_lens[row], begin + size)
        first = 0
        if meta.sliding_window is not None:
            first = jnp.maximum(begin - meta.sliding_window + 1, 0) // block
        mine = lax.dynamic_slice_in_dim(q, start, size).transpose(1, 2, 0, 3).reshape(1, 1, heads, group * size, c)

        def body(j, state: State) -> State:
            seen = j * block + jnp.arange(block)
            pages = lax.dynamic_slice(meta.row_pages, (row, j * per), (1, per))
            k, v = _fetch(kv_pages, pages, (seen < end).reshape(1, per, page_size), q.dtype)
            k = k.transpose(0, 2, 3, 1, 4).reshape(1, 1, heads, c, block)  # a tile shares its pages: one wide product
            v = v.transpose(0, 2, 1, 3, 4).reshape(1, 1, heads, block, c)
            valid = (seen[None] <= position[:, None]) & (seen[None] < end)
            if meta.sliding_window is not None:
                valid &= seen[None] > position[:, None] - meta.sliding_window
            valid = jnp.broadcast_to(valid[None], (group, size, block)).reshape(1, 1, 1, group * size, block)
            return _fold(state, mine, k, v, valid, how)

        _, total, acc = lax.fori_loop(first, ceil_div(end, block), body, _start(1, heads, group * size, c))
        done = (acc / total[..., None]).reshape(heads, group, size, c).transpose(2, 0, 1, 3)
        old = lax.dynamic_slice_in_dim(out, start, size)
        own = (position >= begin) & (position < meta.kv_lens[row])
        return lax.dynamic_update_slice_in_dim(out, jnp.where(own[:, None, None, None], done, old), start, 0)

    return lax.fori_loop(0, meta.num_tiles, one, out)
