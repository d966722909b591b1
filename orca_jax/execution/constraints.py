"""What a sequence may and may not say: biases, allowed tokens, bad words, no end before `min_tokens`.

Each slot has a line in a few small tables, written once when a sequence that needs it takes its seat.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from orca_jax.core.errors import EngineError
from orca_jax.core.plan import Sampling
from orca_jax.core.sampling_params import MAX_BAD_WORD_TOKENS, MAX_BAD_WORDS, MAX_LOGIT_BIAS, MAX_STOP_IDS
from orca_jax.execution.packing import Column, Needs, RowTable

BAD_WORD_FORMS = 2 * MAX_BAD_WORDS  # each word counts twice: with and without a leading space
NO_TOKEN = -1


class Constraints(NamedTuple):
    """One line for each slot. Unused places hold `NO_TOKEN`; a bad word is right-aligned in its line."""

    allowed: Int[Array, "slots W"]  # a bit for each token of the vocabulary
    bias_tokens: Int[Array, "slots B"]
    bias_values: Float[Array, "slots B"]
    bad_words: Int[Array, "slots N L"]
    stop_tokens: Int[Array, "slots E"]


def allocate_constraints(num_slots: int, vocab_size: int) -> Constraints:
    return Constraints(
        allowed=jnp.full((num_slots, -(-vocab_size // 32)), -1, jnp.int32),
        bias_tokens=jnp.full((num_slots, MAX_LOGIT_BIAS), NO_TOKEN, jnp.int32),
        bias_values=jnp.zeros((num_slots, MAX_LOGIT_BIAS), jnp.float32),
        bad_words=jnp.full((num_slots, BAD_WORD_FORMS, MAX_BAD_WORD_TOKENS), NO_TOKEN, jnp.int32),
        stop_tokens=jnp.full((num_slots, MAX_STOP_IDS), NO_TOKEN, jnp.int32),
    )


def constraint_line(s: Sampling, vocab_size: int) -> tuple[np.ndarray, ...]:
    """A slot's line of each table, on the host."""
    for name, entries, most in (
        ("logit_bias", s.logit_bias, MAX_LOGIT_BIAS),
        ("bad_words", s.bad_words, BAD_WORD_FORMS),
        ("stop ids", s.stop_ids, MAX_STOP_IDS),
    ):
        if len(entries) > most:  # the door refuses them; here it would end the engine
            raise EngineError(f"a request with {len(entries)} {name} reached the device, which holds {most}")
    bits = np.zeros(-(-vocab_size // 32) * 32, np.uint8)
    if s.allowed_token_ids is None:
        bits[:] = 1
    else:
        bits[list(s.allowed_token_ids)] = 1
    allowed = np.packbits(bits.reshape(-1, 32), axis=1, bitorder="little").view("<i4")[:, 0].astype(np.int32)
    bias_tokens = np.full(MAX_LOGIT_BIAS, NO_TOKEN, np.int32)
    bias_values = np.zeros(MAX_LOGIT_BIAS, np.float32)
    for i, (token, value) in enumerate(s.logit_bias):
        bias_tokens[i], bias_values[i] = token, value
    bad_words = np.full((BAD_WORD_FORMS, MAX_BAD_WORD_TOKENS), NO_TOKEN, np.int32)
    for i, word in enumerate(s.bad_words):
        if len(word) > MAX_BAD_WORD_TOKENS:
            raise EngineError(f"a bad word of {len(word)} tokens reached the device, which holds {MAX_BAD_WORD_TOKENS}")
        bad_words[i, MAX_BAD_WORD_TOKENS - len(word) :] = word
    stop_tokens = np.full(MAX_STOP_IDS, NO_TOKEN, np.int32)
    stop_tokens[: len(s.stop_ids)] = s.stop_ids
    return allowed, bias_tokens, bias_values, bad_words, stop_tokens


def write_line(tables: Constraints, slot: Int[Array, ""], line: tuple[Array, ...]) -> Constraints:
    """The tables with one slot's line replaced."""
    return Constraints(*(table.at[slot].set(part) for table, part in zip(tables, line, strict=True)))


def apply_constraints(
    logits: Float[Array, "R V"], rows: RowTable, history: Int[Array, "slots N"], tables: Constraints
) -> Float[Array, "R V"]:
    """Logits with forbidden tokens at minus infinity and biases added, in the rows that ask for it."""
    V = logits.shape[-1]
    slot = rows.ints(Column.SLOT)
    asks = (rows.ints(Column.NEEDS) & int(Needs.CONSTRAINTS) != 0)[:, None]
    x = jnp.where(unpack_bits(tables.allowed[slot], V), logits, -jnp.inf)
    x = scatter(x, forbidden_words(rows, history, tables.bad_words[slot]), -jnp.inf)
    too_early = rows.kv_lens - rows.ints(Column.PROMPT_LEN) < rows.ints(Column.MIN_TOKENS)
    x = scatter(x, jnp.where(too_early[:, None], tables.stop_tokens[slot], NO_TOKEN), -jnp.inf)
    x = scatter(x, tables.bias_tokens[slot], tables.bias_values[slot])
    return jnp.where(asks, x, logits)


def unpack_bits(words: Int[Array, "R W"], vocab: int) -> Bool[Array, "R V"]:
    """Bit t % 32 of word t // 32, for each token t."""
    ids = jnp.arange(vocab, dtype=jnp.int32)
    return (words[:, ids // 32] >> (ids % 32)[None, :]) & 1 == 1


def scatter(
    x: Float[Array, "R V"], tokens: Int[Array, "R n"], value: Float[Array, "R n"] | float
) -> Float[Array, "R V"]:
    """Add `value` at `tokens`; `NO_TOKEN` adds nowhere."""
    lines = jnp.arange(x.shape[0], dtype=jnp.int32)[:, None]
    return x.at[lines, jnp.where(tokens == NO_TOKEN, x.shape[1], tokens)].add(value, mode="drop")


def forbidden_words(rows: RowTable, history: Int[Array, "slots N"], words: Int[Array, "R W L"]) -> Int[Array, "R W"]:
    """The last token of each bad word whose other tokens have just been said, `NO_TOKEN` for the rest."""
    before = words.shape[-1] - 1
    position = rows.kv_lens[:, None] - before + jnp.arange(before, dtype=jnp.int32)[None, :]
    said = history[rows.ints(Column.SLOT)[:, None], jnp.maximum(position, 0)]
    said = jnp.where(position >= 0, said, NO_TOKEN - 1)  # nothing equals what was never said
    prefix = words[:, :, :-1]
    match = ((prefix == NO_TOKEN) | (prefix == said[:, None, :])).all(-1)
    return jnp.where(match, words[:, :, -1], NO_TOKEN)
