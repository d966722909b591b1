"""The loss: the serving decoder itself, with an attention that knows windows and documents instead of a cache."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from orca_jax.models.config import DecoderConfig
from orca_jax.models.decoder import Decoder
from orca_jax.models.layers import Attend

Parameters = dict[str, Float[Array, "..."]]
"""Weights by their dotted path in the decoder, e.g. `layers.0.attention.qkv.weight`."""


def initial_parameters(config: DecoderConfig, seed: int) -> Parameters:
    """Random float32 weights."""
    return _flat(nnx.state(Decoder(config, rngs=nnx.Rngs(seed)), nnx.Param))


def _flat(state: nnx.State) -> Parameters:
    return {".".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(state)}


def build(config: DecoderConfig, parameters: Parameters) -> Decoder:
    """A decoder that holds `parameters`, whatever their dtype; traceable."""
    graph, state = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    flat = [(path, leaf.replace(parameters[".".join(map(str, path))])) for path, leaf in nnx.to_flat_state(state)]
    return nnx.merge(graph, nnx.from_flat_state(flat))


def window_attention(segments: Int[Array, "B N"], dtype: jnp.dtype) -> Attend:
    """Causal attention inside each window and, within it, inside each document."""
    B, N = segments.shape
    causal = jnp.tril(jnp.ones((N, N), bool))
    visible = causal[None] & (segments[:, :, None] == segments[:, None, :])
    bias = jnp.where(visible, 0.0, -1e9).astype(jnp.float32)[:, None, None]  # [B, 1, 1, N, N]

    def attend(q, k, v, kv):
        H, K, C = q.shape[1], k.shape[1], q.shape[2]
        q = (q * C**-0.5).astype(dtype).reshape(B, N, K, H // K, C)
        k, v = (part.astype(dtype).reshape(B, N, K, C) for part in (k, v))
        scores = jnp.einsum("bnkgc,bmkc->bkgnm", q, k, preferred_element_type=jnp.float32) + bias
        weights = jax.nn.softmax(scores, axis=-1).astype(dtype)
        y = jnp.einsum("bkgnm,bmkc->bnkgc", weights, v, preferred_element_type=jnp.float32)
        return y.reshape(B * N, H, C), kv

    return attend


def hidden_states(
    config: DecoderConfig,
    parameters: Parameters,
    inputs: Int[Array, "B N"],
    segments: Int[Array, "B N"],
    dtype: jnp.dtype,
) -> tuple[Decoder, Float[Array, "T D"]]:
    """The decoder, its weights cast to `dtype`, and its final hidden states for `T = B N` tokens."""
    B, N = inputs.shape
    decoder = build(config, {name: jnp.asarray(weight, dtype) for name, weight in parameters.items()})
    attends = [window_attention(segments, dtype)] * config.num_layers
    hidden, _ = decoder(inputs.reshape(-1), jnp.tile(jnp.arange(N), B), [None] * config.num_layers, attends)
    return decoder, hidden


def token_losses(
    config: DecoderConfig,
    parameters: Parameters,
    inputs: Int[Array, "B N"],
    targets: Int[Array, "B N"],
    segments: Int[Array, "B N"],
    dtype: jnp.dtype = jnp.float32,
) -> Float[Array, "B N"]:
    """Nats lost on each target. `dtype` is the products' operand type; they accumulate, and the loss is taken, in float32."""
    decoder, hidden = hidden_states(config, parameters, inputs, segments, dtype)
    logits = decoder.logits(hidden)
    chosen = jnp.take_along_axis(logits, targets.reshape(-1, 1), axis=-1)[:, 0]
    return (jax.nn.logsumexp(logits, axis=-1) - chosen).reshape(inputs.shape)
