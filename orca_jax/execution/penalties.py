"""Presence, frequency and repetition penalties, counted on the device from the tokens that are there already."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from orca_jax.execution.packing import Column, Needs, RowTable

BLOCK = 256  # positions that are counted at a time


def apply_penalties(logits: Float[Array, "R V"], rows: RowTable, history: Int[Array, "slots N"]) -> Float[Array, "R V"]:
    """Repetition looks at prompt and output, presence and frequency at the output alone.

    Counts are made anew from the token table instead of being kept for every slot: `[slots, V]` of memory for a feature
    that few requests use would cost more than counting when one does.
    """
    present, generated = count_tokens(rows, history, logits.shape[1])
    repetition = jnp.where(present > 0, rows.floats(Column.REPETITION)[:, None], 1.0)
    # A padding row carries a repetition penalty of 0; its logits are never read, but must not become NaN.
    repetition = jnp.where(repetition > 0, repetition, 1.0)
    logits = jnp.where(logits > 0, logits / repetition, logits * repetition)
    logits -= rows.floats(Column.FREQUENCY)[:, None] * generated
    return logits - rows.floats(Column.PRESENCE)[:, None] * (generated > 0)


def count_tokens(
    rows: RowTable, history: Int[Array, "slots N"], vocab: int
) -> tuple[Float[Array, "R V"], Float[Array, "R V"]]:
    """How often each token stands in a row's prompt and output, and how often in its output; 0 in rows that do not ask.

    Block by block, as far as the longest row that asks: the cost does not follow N.
    """
    slot, first_output = rows.ints(Column.SLOT), rows.ints(Column.PROMPT_LEN)[:, None]
    length = jnp.where(rows.ints(Column.NEEDS) & int(Needs.PENALTIES) != 0, rows.kv_lens, 0)
    R, N = slot.shape[0], history.shape[1]
    block = min(BLOCK, N)
    lines = jnp.broadcast_to(jnp.arange(R, dtype=jnp.int32)[:, None], (R, block))

    def body(i: Array, counts: tuple[Array, Array]) -> tuple[Array, Array]:
        start = jnp.minimum(i * block, N - block)  # the last block begins early, and leaves out what it has in common
        tokens = lax.dynamic_slice_in_dim(history, start, block, axis=1)[slot]
        position = start + jnp.arange(block, dtype=jnp.int32)[None, :]
        counted = (position >= i * block) & (position < length[:, None])
        present, generated = (
            count.at[lines, jnp.where(mask, tokens, vocab)].add(1.0, mode="drop")
            for count, mask in zip(counts, (counted, counted & (position >= first_output)), strict=True)
        )
        return present, generated

    zeros = jnp.zeros((R, vocab))
    return lax.fori_loop(0, -(-length.max() // block), body, (zeros, zeros))
