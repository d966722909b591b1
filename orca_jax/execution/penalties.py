"""Presence, frequency and repetition penalties, counted on the device from the tokens that are there already."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from orca_jax.execution.packing import Column, RowTable


def apply_penalties(logits: Float[Array, "R V"], rows: RowTable, history: Int[Array, "slots N"]) -> Float[Array, "R V"]:
    """Repetition looks at prompt and output, presence and frequency at the output alone.

    Counts are made anew from the token table instead of being kept for every slot: `[slots, V]` of memory for a feature
    that few requests use would cost more than counting when one does.
    """
    R, V = logits.shape
    tokens = history[rows.ints(Column.SLOT)]
    position = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :]
    present = position < rows.kv_lens[:, None]
    is_output = present & (position >= rows.ints(Column.PROMPT_LEN)[:, None])
    lines = jnp.broadcast_to(jnp.arange(R, dtype=jnp.int32)[:, None], tokens.shape)

    def count(mask: Array) -> Float[Array, "R V"]:
        return jnp.zeros((R, V)).at[lines, jnp.where(mask, tokens, V)].add(1.0, mode="drop")

    seen, generated = count(present) > 0, count(is_output)
    repetition = jnp.where(seen, rows.floats(Column.REPETITION)[:, None], 1.0)
    # A padding row carries a repetition penalty of 0; its logits are never read, but must not become NaN.
    repetition = jnp.where(repetition > 0, repetition, 1.0)
    logits = jnp.where(logits > 0, logits / repetition, logits * repetition)
    logits -= rows.floats(Column.FREQUENCY)[:, None] * generated
    return logits - rows.floats(Column.PRESENCE)[:, None] * (generated > 0)
