"""GPT-2 and (dense) GPT-3, the paper's own architecture: learned positions, LayerNorm, GELU, a bias everywhere.

Its checkpoints keep weights as `[in, out]`; they are transposed while they are loaded.
"""

import re

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
    whole,
)
from orca_jax.models.fields import Fields


def read(fields: Fields) -> DecoderConfig:
    fields.expect("scale_attn_weights", True, "scores are divided by the square root of the head width")
    fields.expect("scale_attn_by_inverse_layer_idx", False, "all layers scale their scores alike")
    fields.expect("add_cross_attention", False, "there is no encoder")
    width = fields.integer("n_embd", most=MAX_WIDTH)
    heads = fields.integer("n_head", most=MAX_WIDTH)
    if width % heads:
        raise fields.error("n_head", f"a divisor of n_embd = {width} is needed")
    return DecoderConfig(
        "gpt2",
        vocab_size=fields.integer("vocab_size", most=MAX_VOCABULARY),
        hidden_size=width,
        num_layers=fields.integer("n_layer", most=MAX_LAYERS),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=width // heads,
        intermediate_size=fields.integer("n_inner", 4 * width, most=2**24),
        max_position_embeddings=fields.integer("n_positions", most=MAX_POSITIONS),
        norm="layer",
        norm_eps=fields.number("layer_norm_epsilon", 1e-5, most=1.0),
        activation=fields.choice("activation_function", ACTIVATIONS, "gelu_new"),
        gated=False,
        rope=None,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        tie_embeddings=fields.flag("tie_word_embeddings", True),
    )


def targets(config: DecoderConfig) -> list[Target]:
    c = config
    table = [
        whole(("embedding",), "transformer.wte.weight", (c.vocab_size, c.hidden_size)),
        whole(("positions",), "transformer.wpe.weight", (c.max_position_embeddings, c.hidden_size)),
    ]
    for i in range(c.num_layers):
        table += _layer(c, ("layers", i), f"transformer.h.{i}")
    table += norm(("norm",), "transformer.ln_f", c.hidden_size, bias=True)
    if not c.tie_embeddings:
        table.append(whole(("head",), "lm_head.weight", (c.vocab_size, c.hidden_size)))
    return table


def _layer(c: DecoderConfig, path: Path, name: str) -> list[Target]:
    D, F, heads = c.hidden_size, c.intermediate_size, (3, c.num_heads, c.head_dim)
    weight = Piece(f"{name}.attn.c_attn.weight", (D, 3 * D), lambda t: t.reshape(D, *heads).transpose(2, 1, 3, 0))
    bias = Piece(f"{name}.attn.c_attn.bias", (3 * D,), lambda t: t.reshape(heads).swapaxes(0, 1))
    return [
        *norm((*path, "attention_norm"), f"{name}.ln_1", D, bias=True),
        Target((*path, "attention", "qkv", "weight"), (weight,)),
        Target((*path, "attention", "qkv", "bias"), (bias,)),
        _transposed((*path, "attention", "out", "weight"), f"{name}.attn.c_proj.weight", (D, D)),
        whole((*path, "attention", "out", "bias"), f"{name}.attn.c_proj.bias", (D,)),
        *norm((*path, "mlp_norm"), f"{name}.ln_2", D, bias=True),
        _transposed((*path, "mlp", "up", "weight"), f"{name}.mlp.c_fc.weight", (D, F)),
        whole((*path, "mlp", "up", "bias"), f"{name}.mlp.c_fc.bias", (F,)),
        _transposed((*path, "mlp", "down", "weight"), f"{name}.mlp.c_proj.weight", (F, D)),
        whole((*path, "mlp", "down", "bias"), f"{name}.mlp.c_proj.bias", (D,)),
    ]


def _transposed(path: Path, tensor: str, shape: tuple[int, int]) -> Target:
    return Target(path, (Piece(tensor, shape, np.transpose),))


GPT2 = Family("gpt2", "GPT2LMHeadModel", read, targets, "transformer.", re.compile(r"h\.\d+\.attn\.(bias|masked_bias)"))
