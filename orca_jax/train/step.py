"""One update and one evaluation, compiled."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from orca_jax.models.config import DecoderConfig
from orca_jax.train.model import Parameters, token_losses

Update = Callable[..., tuple[Parameters, optax.OptState, Float[Array, ""]]]


def _windows(batch: dict[str, Array], length: int) -> tuple[Array, ...]:
    return tuple(batch[name].reshape(-1, length) for name in ("inputs", "targets", "segments"))


def make_update(
    config: DecoderConfig, optimizer: optax.GradientTransformation, dtype: jnp.dtype, length: int
) -> Update:
    """`(parameters, state, batch, height) -> (parameters, state, mean loss in nats)`; both states are updated in place.

    `length` is the attention window that the batch's rows are cut into; `height` scales the learning rate.
    """

    def mean_loss(parameters: Parameters, batch: dict[str, Array]) -> Float[Array, ""]:
        return token_losses(config, parameters, *_windows(batch, length), dtype=dtype).mean()

    def update(parameters: Parameters, state: Any, batch: dict[str, Array], height: Float[Array, ""]):
        loss, gradients = jax.value_and_grad(mean_loss)(parameters, batch)
        changes, state = optimizer.update(gradients, state, parameters)
        changes = jax.tree.map(lambda change: change * height, changes)
        return optax.apply_updates(parameters, changes), state, loss

    return jax.jit(update, donate_argnums=(0, 1))


def make_losses(config: DecoderConfig, dtype: jnp.dtype = jnp.float32) -> Callable[..., Float[Array, "B N"]]:
    """`(parameters, inputs, targets, segments) -> nats [B, N]`."""
    return jax.jit(lambda parameters, *window: token_losses(config, parameters, *window, dtype=dtype))
