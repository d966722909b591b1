"""How a token must be chosen, written the obvious way in float64: sorting, counting, one row at a time."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float

from orca_jax.core.plan import Sampling


def scores(logits: Float[np.ndarray, " V"], s: Sampling, tokens: Sequence[int]) -> Float[np.ndarray, " V"]:
    """What the next token maximises after `tokens` (prompt and output so far); minus infinity where it cannot be.

    For a greedy request the processed logits, else the tempered ones with Gumbel noise from the documented key.
    """
    x = logits.astype(np.float64)
    if s.allowed_token_ids is not None:
        x[[t for t in range(len(x)) if t not in s.allowed_token_ids]] = -np.inf
    for word in s.bad_words:
        if list(word[:-1]) == list(tokens[len(tokens) - len(word) + 1 :]):
            x[word[-1]] = -np.inf
    if len(tokens) - s.prompt_len < s.min_tokens:
        x[list(s.stop_ids)] = -np.inf
    for token, bias in s.logit_bias:
        x[token] += bias
    for token in set(tokens):
        x[token] = x[token] / s.repetition_penalty if x[token] > 0 else x[token] * s.repetition_penalty
    output = list(tokens[s.prompt_len :])
    for token in set(output):
        x[token] -= s.frequency_penalty * output.count(token) + s.presence_penalty
    if s.temperature == 0:
        return x
    x = truncate(x / s.temperature, s)
    return x + gumbel(s, len(tokens), len(x))


def truncate(x: Float[np.ndarray, " V"], s: Sampling) -> Float[np.ndarray, " V"]:
    """Minus infinity for what min-p, top-k and top-p drop, in this order."""
    if s.min_p:
        x = np.where(np.exp(x - x.max()) >= s.min_p, x, -np.inf)
    if s.top_k:
        x = np.where(x >= np.sort(x)[::-1][min(s.top_k, len(x)) - 1], x, -np.inf)
    if s.top_p < 1:
        p = np.exp(x - x.max())
        order = np.argsort(-p, kind="stable")
        mass = np.cumsum(p[order]) / p.sum()
        last = order[np.searchsorted(mass, s.top_p)]
        x = np.where(p >= p[last], x, -np.inf)
    return x


def gumbel(s: Sampling, position: int, vocab: int) -> Float[np.ndarray, " V"]:
    """Noise of the key (seed, index among n, position of the token to be drawn)."""
    seed = s.seed % 2**64
    key = jax.random.wrap_key_data(np.array([seed >> 32, seed & 0xFFFFFFFF], np.uint32), impl="threefry2x32")
    key = jax.random.fold_in(jax.random.fold_in(key, s.index), position)
    return np.asarray(jax.random.gumbel(key, (vocab,)), np.float64)
