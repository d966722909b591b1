"""From logits to tokens, on the device, row by row: nothing a row gets depends on any other row.

The order of operations is the one users of such engines know: log-probabilities of the raw logits, constraints,
penalties, temperature, min-p, top-k, top-p, a draw. Thresholds are found by bisection on masses instead of by sorting:
exact, cheap where sorting is slow, and the same when the vocabulary is split over devices. Tokens equal to a threshold
are all kept. Random numbers are a function of (seed, index among n, position, token id) alone.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from orca_jax.core.plan import NOT_A_NUMBER, NOTHING_ALLOWED
from orca_jax.core.sampling_params import MAX_LOGPROBS
from orca_jax.execution.constraints import Constraints, apply_constraints, unpack_bits
from orca_jax.execution.packing import Column, Needs, RowTable
from orca_jax.execution.penalties import apply_penalties
from orca_jax.models.sharding import split_by_vocabulary


class Sampled(NamedTuple):
    """A token for each row; where log-probabilities were asked for, the token's own, its rank and the likeliest ones."""

    token: Int[Array, " R"]
    logprob: Float[Array, " R"]
    rank: Int[Array, " R"]
    top_tokens: Int[Array, "R N"]
    top_logprobs: Float[Array, "R N"]


def argmax(x: Float[Array, "R V"]) -> Int[Array, " R"]:
    """The first largest element of each row; `NOT_A_NUMBER` where one is NaN, `NOTHING_ALLOWED` where all are -inf.

    Two vectorised passes: XLA:CPU's own argmax is a scalar loop, ten times slower over a large vocabulary.
    """
    V = x.shape[-1]
    ids = jnp.arange(V, dtype=jnp.int32)
    top = x.max(-1, keepdims=True)
    first = jnp.min(jnp.where((x == top) & (top > -jnp.inf), ids[None, :], V), axis=-1)
    return jnp.where(first == V, jnp.where(jnp.isnan(top[:, 0]), NOT_A_NUMBER, NOTHING_ALLOWED), first)


Sampler = Callable[[Array, RowTable, Array, Constraints, Mesh | None], Sampled]
"""`(logits, rows, history, constraints, mesh) -> Sampled`, as `sample` and `greedy` are."""


def greedy(
    logits: Float[Array, "R V"], rows: RowTable, history: Int[Array, "slots N"], constraints: Constraints,
    mesh: Mesh | None = None,
) -> Sampled:  # fmt: skip
    """The likeliest tokens, whatever rows ask for: what `sample` does where they ask for nothing."""
    R = logits.shape[0]
    zeros = jnp.zeros((R, MAX_LOGPROBS))
    return Sampled(argmax(logits), zeros[:, 0], jnp.zeros(R, jnp.int32), zeros.astype(jnp.int32), zeros)


def sample(
    logits: Float[Array, "R V"], rows: RowTable, history: Int[Array, "slots N"], constraints: Constraints,
    mesh: Mesh | None = None, mask: Int[Array, "R W"] | None = None,
) -> Sampled:  # fmt: skip
    """Choose a token for each row. `history` is the token table, up to and including each row's last position. Over a
    `mesh`, logits stay split by vocabulary. `mask` has a bit for each token that a row may choose, as in
    `Constraints.allowed`; None allows all.
    """

    def within(logits: Array) -> Array:
        return logits if mask is None else jnp.where(unpack_bits(mask, logits.shape[1]), logits, -jnp.inf)

    def plain(logits: Array) -> Sampled:
        return greedy(within(logits), rows, history, constraints, mesh)

    def full(logits: Array) -> Sampled:
        def need(flag: Needs) -> Bool[Array, ""]:
            return (rows.needs & int(flag)) != 0

        split = functools.partial(split_by_vocabulary, mesh=mesh)
        raw = logits
        logits = within(logits)
        logits = split(lax.cond(
            need(Needs.CONSTRAINTS), lambda x: apply_constraints(x, rows, history, constraints), lambda x: x, logits
        ))  # fmt: skip
        logits = split(
            lax.cond(need(Needs.PENALTIES), lambda x: apply_penalties(x, rows, history), lambda x: x, logits)
        )
        likeliest = argmax(logits)
        token = lax.cond(
            need(Needs.NOISE),
            lambda x: jnp.where(is_random(rows) & (likeliest >= 0), draw(x, rows), likeliest),
            lambda x: likeliest,
            logits,
        )
        return lax.cond(need(Needs.LOGPROBS), lambda: describe(raw, token), lambda: plain(raw)._replace(token=token))

    return lax.cond(rows.needs == 0, plain, full, logits)


def is_random(rows: RowTable) -> Bool[Array, " R"]:
    return rows.floats(Column.TEMPERATURE) > 0


def draw(logits: Float[Array, "R V"], rows: RowTable) -> Int[Array, " R"]:
    """A sample from each row's tempered and truncated distribution, by adding Gumbel noise and taking the largest."""
    temperature = jnp.where(is_random(rows), rows.floats(Column.TEMPERATURE), 1.0)
    x = logits / temperature[:, None]
    keep = jnp.ones(x.shape, bool)

    def need(flag: Needs) -> Bool[Array, ""]:
        return (rows.needs & int(flag)) != 0

    keep = lax.cond(need(Needs.MIN_P), lambda: keep & above_min_p(x, rows.floats(Column.MIN_P)), lambda: keep)
    keep = lax.cond(need(Needs.TOP_K), lambda: keep & within_top_k(x, keep, rows.ints(Column.TOP_K)), lambda: keep)
    keep = lax.cond(need(Needs.TOP_P), lambda: keep & within_top_p(x, keep, rows.floats(Column.TOP_P)), lambda: keep)
    return argmax(jnp.where(keep, x + noise(rows, x.shape[-1]), -jnp.inf))


def noise(rows: RowTable, vocab: int) -> Float[Array, "R V"]:
    """Gumbel noise whose key is the row's seed, its index among n, and the position of the token to be drawn."""
    high = lax.bitcast_convert_type(rows.ints(Column.SEED_HIGH), jnp.uint32)
    low = lax.bitcast_convert_type(rows.ints(Column.SEED_LOW), jnp.uint32)

    def one(high: Array, low: Array, index: Array, position: Array) -> Array:
        key = jax.random.wrap_key_data(jnp.stack([high, low]), impl="threefry2x32")
        key = jax.random.fold_in(jax.random.fold_in(key, index), position)
        return jax.random.gumbel(key, (vocab,), jnp.float32)

    return jax.vmap(one)(high, low, rows.ints(Column.INDEX), rows.kv_lens)


def above_min_p(x: Float[Array, "R V"], min_p: Float[Array, " R"]) -> Bool[Array, "R V"]:
    """Tokens at least `min_p` times as likely as the likeliest (everything where it is 0)."""
    floor = x.max(-1) + jnp.where(min_p > 0, jnp.log(jnp.maximum(min_p, 1e-38)), -jnp.inf)
    return x >= floor[:, None]


def ordered(x: Float[Array, "R V"]) -> Int[Array, "R V"]:
    """Unsigned integers in the same order as the floats, so that bisection ends after 32 halvings at the exact value."""
    bits = lax.bitcast_convert_type(jnp.where(x == 0, 0.0, x), jnp.uint32)  # the two zeros are one number
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def largest_threshold(
    x: Int[Array, "R V"], weight: Float[Array, "R V"], target: Float[Array, " R"]
) -> Int[Array, " R"]:
    """The largest t of each row for which the weight of {x >= t} is still at least `target`."""

    def halve(bit: Array, t: Array) -> Array:
        candidate = t | (jnp.uint32(1) << (31 - bit).astype(jnp.uint32))
        mass = jnp.where(x >= candidate[:, None], weight, 0).sum(-1)
        return jnp.where(mass >= target, candidate, t)

    return lax.fori_loop(0, 32, halve, jnp.zeros(x.shape[0], jnp.uint32))


def within_top_k(x: Float[Array, "R V"], keep: Bool[Array, "R V"], k: Int[Array, " R"]) -> Bool[Array, "R V"]:
    """The k largest that are still kept, ties at the edge included (everything where k is 0)."""
    order = ordered(x)
    threshold = largest_threshold(order, keep.astype(jnp.float32), k.astype(jnp.float32))
    return (order >= threshold[:, None]) | (k == 0)[:, None]


def within_top_p(x: Float[Array, "R V"], keep: Bool[Array, "R V"], p: Float[Array, " R"]) -> Bool[Array, "R V"]:
    """The likeliest tokens whose probability adds up to p, ties at the edge included (everything where p is 1)."""
    probability = jax.nn.softmax(jnp.where(keep, x, -jnp.inf), axis=-1)
    order = ordered(probability)
    threshold = largest_threshold(order, probability, p)
    # Rounding may leave the whole mass below p: the threshold is then 0 and everything stays.
    return (order >= threshold[:, None]) | (p >= 1)[:, None]


def describe(logits: Float[Array, "R V"], token: Int[Array, " R"]) -> Sampled:
    """Log-probabilities of the raw logits: the chosen token's with its rank, and those of the likeliest tokens."""
    logprobs = jax.nn.log_softmax(logits, axis=-1)
    own = jnp.take_along_axis(logprobs, jnp.maximum(token, 0)[:, None], axis=-1)
    rank = 1 + (logprobs > own).sum(-1, dtype=jnp.int32)
    count = min(MAX_LOGPROBS, logits.shape[-1])
    top, top_tokens = lax.top_k(logprobs, count)
    pad = ((0, 0), (0, MAX_LOGPROBS - count))
    return Sampled(token, own[:, 0], rank, jnp.pad(top_tokens.astype(jnp.int32), pad), jnp.pad(top, pad))
