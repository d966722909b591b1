"""Llama, and the tensor names that its descendants (Mistral, Qwen2, Qwen3) share with it."""

from typing import Any

import numpy as np

from orca_jax.models.config import DecoderConfig
from orca_jax.models.families.base import (
    ACTIVATIONS,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_VOCABULARY,
    MAX_WIDTH,
    Family,
    Path,
    Piece,
    Target,
    norm,
    qkv,
    whole,
)
from orca_jax.models.families.rotary import read_rope
from orca_jax.models.fields import Fields


def read_shape(fields: Fields, *, head_dim: int | None = None) -> dict[str, Any]:
    """What every member of the house calls by the same name, as arguments of `DecoderConfig`.

    `head_dim` is the family's own default; None derives it from the widths.
    """
    width = fields.integer("hidden_size", most=MAX_WIDTH)
    heads = fields.integer("num_attention_heads", most=MAX_WIDTH)
    kv_heads = fields.integer("num_key_value_heads", heads, most=MAX_WIDTH)
    if heads % kv_heads:
        raise fields.error("num_key_value_heads", f"a divisor of num_attention_heads = {heads} is needed")
    if head_dim is None and "head_dim" not in fields and width % heads:
        raise fields.error("num_attention_heads", f"a divisor of hidden_size = {width} is needed (or head_dim)")
    head_dim = fields.integer("head_dim", head_dim or width // heads, most=2**14)
    if head_dim % 2:
        raise fields.error("head_dim", "an even head width is needed for rotary positions")
    positions = fields.integer("max_position_embeddings", most=MAX_POSITIONS)
    return dict(
        vocab_size=fields.integer("vocab_size", most=MAX_VOCABULARY),
        hidden_size=width,
        num_layers=fields.integer("num_hidden_layers", most=MAX_LAYERS),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=fields.integer("intermediate_size", most=2**24),
        max_position_embeddings=positions,
        norm_eps=fields.number("rms_norm_eps", 1e-6, least=0.0, most=1.0),
        activation=fields.choice("hidden_act", ACTIVATIONS, "silu"),
        rope=read_rope(fields, positions),
        tie_embeddings=fields.flag("tie_word_embeddings", False),
    )


def read(fields: Fields) -> DecoderConfig:
    biased = fields.flag("attention_bias", False)
    mlp_bias = fields.flag("mlp_bias", False)
    return DecoderConfig("llama", qkv_bias=biased, out_bias=biased, mlp_bias=mlp_bias, **read_shape(fields))


def targets(config: DecoderConfig) -> list[Target]:
    """Every parameter of a decoder with Llama's names."""
    c = config
    table = [whole(("embedding",), "model.embed_tokens.weight", (c.vocab_size, c.hidden_size))]
    for i in range(c.num_layers):
        table += _layer(c, ("layers", i), f"model.layers.{i}")
    table += norm(("norm",), "model.norm", c.hidden_size, bias=False)
    if not c.tie_embeddings:
        table.append(whole(("head",), "lm_head.weight", (c.vocab_size, c.hidden_size)))
    return table


def _layer(c: DecoderConfig, path: Path, name: str) -> list[Target]:
    attention = (*path, "attention")
    rows = [
        *norm((*path, "attention_norm"), f"{name}.input_layernorm", c.hidden_size, bias=False),
        Target((*attention, "qkv", "weight"), qkv(lambda x: f"{name}.self_attn.{x}_proj", "weight", c)),
        whole(
            (*attention, "out", "weight"), f"{name}.self_attn.o_proj.weight", (c.hidden_size, c.num_heads * c.head_dim)
        ),
        *norm((*path, "mlp_norm"), f"{name}.post_attention_layernorm", c.hidden_size, bias=False),
        *_mlp(c, (*path, "mlp"), f"{name}.mlp"),
    ]
    if c.qkv_bias:
        rows.append(Target((*attention, "qkv", "bias"), qkv(lambda x: f"{name}.self_attn.{x}_proj", "bias", c)))
    if c.out_bias:
        rows.append(whole((*attention, "out", "bias"), f"{name}.self_attn.o_proj.bias", (c.hidden_size,)))
    if c.qk_norm:
        rows += norm((*attention, "q_norm"), f"{name}.self_attn.q_norm", c.head_dim, bias=False)
        rows += norm((*attention, "k_norm"), f"{name}.self_attn.k_norm", c.head_dim, bias=False)
    return rows


def _mlp(c: DecoderConfig, path: Path, name: str) -> list[Target]:
    def up(kind: str, tail: tuple[int, ...]) -> Target:
        shape = (c.intermediate_size, *tail)
        pieces = (
            Piece(f"{name}.gate_proj.{kind}", shape, where=np.s_[0]),
            Piece(f"{name}.up_proj.{kind}", shape, where=np.s_[1]),
        )
        return Target((*path, "up", kind), pieces)

    rows = [
        up("weight", (c.hidden_size,)),
        whole((*path, "down", "weight"), f"{name}.down_proj.weight", (c.hidden_size, c.intermediate_size)),
    ]
    if c.mlp_bias:
        rows += [up("bias", ()), whole((*path, "down", "bias"), f"{name}.down_proj.bias", (c.hidden_size,))]
    return rows


LLAMA = Family("llama", "LlamaForCausalLM", read, targets)
