"""An obviously right way to run a model: the whole sequence at once, dense causal attention, no cache, no batch.

Slow on purpose. Tests hold the engine, the kernels and the checkpoints to it.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from orca_jax.models.decoder import Decoder
from orca_jax.models.layers import Attend


def dense_attend(window: int | None) -> Attend:
    """Attention of one whole sequence to itself: everything before, within the window. Its cache is nothing."""

    def attend(
        q: Float[Array, "T H C"], k: Float[Array, "T K C"], v: Float[Array, "T K C"], kv: None
    ) -> tuple[Float[Array, "T H C"], None]:
        T, H, C = q.shape
        k, v = (jnp.repeat(x, H // k.shape[1], axis=1) for x in (k, v))
        scores = jnp.einsum("thc,shc->hts", q, k, precision="highest") / C**0.5
        back = jnp.arange(T)[:, None] - jnp.arange(T)[None, :]
        seen = (back >= 0) & (back < (T if window is None else window))
        weights = jax.nn.softmax(jnp.where(seen[None], scores, -jnp.inf), axis=-1)
        return jnp.einsum("hts,shc->thc", weights, v, precision="highest"), None

    return attend


def logits(model: Decoder, tokens: Sequence[int]) -> Float[np.ndarray, "T V"]:
    """Next-token logits at every position, float32."""
    return np.asarray(compiled(model)(jnp.asarray(tokens, jnp.int32)))


def spread(logits: Float[np.ndarray, "..."]) -> float:
    """What differences between logits are measured by, everywhere: their standard deviation."""
    return float(np.std(logits))


def greedy(model: Decoder, prompt: Sequence[int], n: int) -> list[int]:
    """The `n` tokens that always taking the largest logit adds to the prompt. No token ends it."""
    forward = compiled(model)
    # one shape for all lengths: what follows a token cannot change it
    tokens = np.zeros(len(prompt) + n, np.int32)
    tokens[: len(prompt)] = prompt
    for end in range(len(prompt), len(prompt) + n):
        tokens[end] = int(np.argmax(np.asarray(forward(jnp.asarray(tokens)))[end - 1]))
    return [int(token) for token in tokens[len(prompt) :]]


def compiled(model: Decoder) -> Callable[[Array], Array]:
    """`tokens i32[T] -> logits f32[T, V]` as one compiled function; keep it to run several sequences of a length."""
    count = model.config.num_layers
    attends = [dense_attend(model.config.window(i)) for i in range(count)]

    @jax.jit
    def forward(model: Decoder, tokens: Array) -> Array:
        hidden, _ = model(tokens, jnp.arange(tokens.shape[0]), [None] * count, attends)
        return model.logits(hidden)

    return lambda tokens: forward(model, tokens)
