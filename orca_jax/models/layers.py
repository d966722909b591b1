"""The parts a decoder is made of. Everything here works on a flat `[T, D]` and asks for no phase and no request.

Weights are `[out, in]`, products contract the last axis of both operands and accumulate in float32: the natural form of
the checkpoints, and the one that XLA's CPU backend runs fastest. Between products activations stay in float32, whatever
the weights are kept in.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from orca_jax.models.config import DecoderConfig

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}


def param(
    rngs: nnx.Rngs, shape: tuple[int, ...], dtype: jnp.dtype, axes: tuple[str, ...], std: float = 0.02
) -> nnx.Param:
    """A normal-initialised parameter that knows its logical axes (see `sharding.py`)."""
    return nnx.Param((jax.random.normal(rngs.params(), shape, jnp.float32) * std).astype(dtype), axes=axes)


def constant(value: float, shape: tuple[int, ...], dtype: jnp.dtype, axes: tuple[str, ...]) -> nnx.Param:
    return nnx.Param(jnp.full(shape, value, dtype), axes=axes)


def product(x: Float[Array, "T i"], weight: Float[Array, "*out i"]) -> Float[Array, "T *out"]:
    """The one matrix product of the engine: operands in the weight's dtype, result in float32."""
    exact = lax.Precision.HIGHEST if weight.dtype == jnp.float32 else None
    # Two axes, whatever the weight's own: XLA:CPU turns a weight of more axes around, at every call. Not so over a mesh: a
    # split axis that is merged into one before it is no longer split evenly, and the weight would be gathered.
    flat = weight.reshape(-1, weight.shape[-1]) if jax.sharding.get_abstract_mesh().empty else weight
    y = lax.dot_general(
        x.astype(weight.dtype), flat, (((1,), (flat.ndim - 1,)), ((), ())), precision=exact,
        preferred_element_type=jnp.float32,
    )  # fmt: skip
    return y.reshape(x.shape[0], *weight.shape[:-1])


def beside(weight: nnx.Param, x: Float[Array, "*n D"]) -> Float[Array, "*ones D"]:
    """The weight in float32 and in `x`'s rank, so that no shape is ever broadcast by accident."""
    return lax.broadcast_to_rank(weight[...].astype(jnp.float32), x.ndim)


class Linear(nnx.Module):
    """`[T, in] -> [T, *out]`, with or without a bias."""

    def __init__(self, width: int, out: tuple[int, ...], axes: tuple[str, ...], *, bias: bool, dtype, rngs, std=0.02):
        self.weight = param(rngs, (*out, width), dtype, axes, std)
        self.bias = constant(0.0, out, dtype, axes[:-1]) if bias else None

    def __call__(self, x: Float[Array, "T i"]) -> Float[Array, "T *out"]:
        y = product(x, self.weight[...])
        return y if self.bias is None else y + beside(self.bias, y)


class Norm(nnx.Module):
    """RMSNorm or LayerNorm over the last axis, in float32."""

    def __init__(self, width: int, axes: tuple[str, ...], kind: str, eps: float, *, dtype):
        self.scale = constant(1.0, (width,), dtype, axes)
        self.bias = constant(0.0, (width,), dtype, axes) if kind == "layer" else None
        self.eps = eps

    def __call__(self, x: Float[Array, "*n D"]) -> Float[Array, "*n D"]:
        x = x.astype(jnp.float32)
        if self.bias is not None:
            x = x - x.mean(-1, keepdims=True)
        x = x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.eps) * beside(self.scale, x)
        return x if self.bias is None else x + beside(self.bias, x)


class MLP(nnx.Module):
    """Up, activation (gated or not), down."""

    def __init__(self, config: DecoderConfig, *, dtype, rngs):
        c = config
        parts = 2 if c.gated else 1  # gate and up are one product
        self.up = Linear(c.hidden_size, (parts, c.intermediate_size), ("parts", "mlp", "embed"), bias=c.mlp_bias,
                         dtype=dtype, rngs=rngs)  # fmt: skip
        self.down = Linear(c.intermediate_size, (c.hidden_size,), ("embed", "mlp"), bias=c.mlp_bias, dtype=dtype,
                           rngs=rngs, std=0.02 / (2 * c.num_layers) ** 0.5)  # fmt: skip
        self.activation = c.activation

    def __call__(self, x: Float[Array, "T D"]) -> Float[Array, "T D"]:
        y = self.up(x)
        hidden = ACTIVATIONS[self.activation](y[:, 0])
        return self.down(hidden * y[:, 1] if y.shape[1] == 2 else hidden)


class Attention(nnx.Module):
    """The two products around attention; attention itself is `attend`, which the caller brings.

    One product makes q, k and v. Its rows are ordered by K/V head, `[K, G + 2, C]` (the group's query heads, then k,
    then v), so that a device that owns some K/V heads owns all that belongs to them.
    """

    def __init__(self, config: DecoderConfig, *, dtype, rngs):
        c = config
        shape = (c.num_kv_heads, c.group_size + 2, c.head_dim)
        self.qkv = Linear(c.hidden_size, shape, ("kv_heads", "group", "head_dim", "embed"), bias=c.qkv_bias,
                          dtype=dtype, rngs=rngs)  # fmt: skip
        self.out = Linear(c.num_heads * c.head_dim, (c.hidden_size,), ("embed", "heads"), bias=c.out_bias, dtype=dtype,
                          rngs=rngs, std=0.02 / (2 * c.num_layers) ** 0.5)  # fmt: skip
        self.q_norm = Norm(c.head_dim, ("head_dim",), "rms", c.norm_eps, dtype=dtype) if c.qk_norm else None
        self.k_norm = Norm(c.head_dim, ("head_dim",), "rms", c.norm_eps, dtype=dtype) if c.qk_norm else None
        self.group_size = c.group_size

    def __call__(
        self, x: Float[Array, "T D"], rotation: "Rotation | None", kv: "KV", attend: "Attend"
    ) -> "tuple[Array, KV]":
        qkv = self.qkv(x)  # [T, K, G + 2, C]
        T, C = x.shape[0], qkv.shape[-1]
        q, k, v = qkv[:, :, : self.group_size].reshape(T, -1, C), qkv[:, :, -2], qkv[:, :, -1]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        y, kv = attend(q, k, v, kv)
        return self.out(y.reshape(T, -1)), kv


Rotation = tuple[Float[Array, "T half"], Float[Array, "T half"]]
"""Cosines and sines of each token's position, one for each pair of elements."""

KV = Any
"""A layer's K/V cache in whatever form the caller's `attend` understands; the model only passes it on."""

Attend = Callable[[Array, Array, Array, KV], tuple[Array, KV]]
"""`(q [T, H, C], k [T, K, C], v [T, K, C], kv) -> (y [T, H, C], kv)`, the only operation that knows about rows."""


def rotate(x: Float[Array, "T n C"], rotation: Rotation) -> Float[Array, "T n C"]:
    """Rotary position embedding, halves paired (the convention of Hugging Face checkpoints)."""
    cos, sin = (part[:, None, :] for part in rotation)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
