"""The decoder that every family here is an instance of: a flat batch of tokens in, a hidden state for each out."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int

from orca_jax.models.config import DecoderConfig
from orca_jax.models.layers import KV, MLP, Attend, Attention, Norm, Rotation, param, product
from orca_jax.models.rope import rotation


class DecoderLayer(nnx.Module):
    """Pre-norm: attention and MLP, each added to the stream."""

    def __init__(self, config: DecoderConfig, *, dtype, rngs: nnx.Rngs):
        norm = (config.hidden_size, ("embed",), config.norm, config.norm_eps)
        self.attention_norm = Norm(*norm, dtype=dtype)
        self.attention = Attention(config, dtype=dtype, rngs=rngs)
        self.mlp_norm = Norm(*norm, dtype=dtype)
        self.mlp = MLP(config, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "T D"], turn: Rotation | None, kv: KV, attend: Attend
    ) -> tuple[Float[Array, "T D"], KV]:
        with jax.named_scope("attention"):
            y, kv = self.attention(self.attention_norm(x), turn, kv, attend)
        x = x + y
        with jax.named_scope("mlp"):
            return x + self.mlp(self.mlp_norm(x)), kv


class Decoder(nnx.Module):
    """Embedding, layers, final norm and head. The K/V cache is no part of it: `attend` brings and returns it."""

    def __init__(self, config: DecoderConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        c = config
        self.config = c
        self.embedding = param(rngs, (c.vocab_size, c.hidden_size), dtype, ("vocab", "embed"))
        table = (c.max_position_embeddings + c.position_offset, c.hidden_size)
        self.positions = param(rngs, table, dtype, ("position", "embed")) if c.rope is None else None
        self.layers = nnx.List([DecoderLayer(c, dtype=dtype, rngs=rngs) for _ in range(c.num_layers)])
        self.norm = Norm(c.hidden_size, ("embed",), c.norm, c.norm_eps, dtype=dtype)
        self.head = None if c.tie_embeddings else param(rngs, (c.vocab_size, c.hidden_size), dtype, ("vocab", "embed"))

    def embed(
        self, tokens: Int[Array, " T"], positions: Int[Array, " T"]
    ) -> tuple[Float[Array, "T D"], Rotation | None]:
        """The stream before the first layer, and the rotation that every layer shares."""
        c = self.config
        x = self.embedding[...][tokens].astype(jnp.float32)
        if self.positions is not None:
            return x + self.positions[...][positions + c.position_offset].astype(jnp.float32), None
        if c.rope is None:
            raise ValueError("a decoder needs learned or rotary positions")
        # Worked out once, not fused into every layer: XLA:CPU would take each cosine again for each head and layer.
        return x, lax.optimization_barrier(rotation(c.rope, c.head_dim, positions))

    def logits(self, x: Float[Array, "R D"]) -> Float[Array, "R V"]:
        """Next-token logits of normed hidden states, float32."""
        head = self.embedding if self.head is None else self.head
        return product(x, head[...])

    def __call__(
        self, tokens: Int[Array, " T"], positions: Int[Array, " T"], kvs: list[KV], attends: list[Attend]
    ) -> tuple[Float[Array, "T D"], list[KV]]:
        """Final normed hidden states. `kvs` and `attends` have one entry for each layer; `kvs` come back updated."""
        x, turn = self.embed(tokens, positions)
        out: list[KV] = []
        for layer, kv, attend in zip(self.layers, kvs, attends, strict=True):
            x, kv = layer(x, turn, kv, attend)
            out.append(kv)
        return self.norm(x), out
