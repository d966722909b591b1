"""Completions from the dense forward pass: slow, without a cache, and good enough to look at what was learnt."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from tokenizers import Tokenizer

from orca_jax.models.config import DecoderConfig
from orca_jax.train.model import Parameters, hidden_states


def complete(
    config: DecoderConfig,
    parameters: Parameters,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    end: int,
    max_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """What follows each prompt, up to `max_tokens` or the end-of-sequence; greedy at temperature 0."""
    ids = [tokenizer.encode(prompt).ids for prompt in prompts]
    length = max(map(len, ids)) + max_tokens
    tokens = np.stack([np.pad(row, (0, length - len(row))) for row in ids]).astype(np.int32)
    filled = np.array([len(row) for row in ids])
    rows = np.arange(len(ids))
    rng = np.random.default_rng(seed)
    logits_at = jax.jit(lambda p, t, n: _last_logits(config, p, t, n))
    answers: list[list[int]] = [[] for _ in ids]
    ended = np.zeros(len(ids), bool)
    for _ in range(max_tokens):
        logits = np.asarray(logits_at(parameters, jnp.asarray(tokens), jnp.asarray(filled)))
        chosen = _choose(logits, temperature, rng)
        ended |= chosen == end
        if ended.all():
            break
        tokens[rows, filled] = chosen
        filled = filled + 1
        for row in np.flatnonzero(~ended):
            answers[row].append(int(chosen[row]))
    return [tokenizer.decode(answer) for answer in answers]


def _last_logits(
    config: DecoderConfig, parameters: Parameters, tokens: Int[Array, "B N"], filled: Int[Array, " B"]
) -> Float[Array, "B V"]:
    decoder, hidden = hidden_states(config, parameters, tokens, jnp.ones_like(tokens), jnp.float32)
    last = hidden.reshape(*tokens.shape, -1)[jnp.arange(tokens.shape[0]), filled - 1]
    return decoder.logits(last)


def _choose(logits: np.ndarray, temperature: float, rng: np.random.Generator) -> np.ndarray:
    if not temperature:
        return logits.argmax(-1)
    return (logits / temperature + rng.gumbel(size=logits.shape)).argmax(-1)
