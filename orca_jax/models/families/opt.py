"""OPT: GPT-3's shape with ReLU, and positions that start two rows into their table. Pre-norm only."""

from orca_jax.models.config import DecoderConfig
from orca_jax.models.families.base import (
    ACTIVATIONS,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_VOCABULARY,
    MAX_WIDTH,
    Family,
    Path,
    Target,
    norm,
    qkv,
    whole,
)
from orca_jax.models.fields import Fields

OFFSET = 2


def read(fields: Fields) -> DecoderConfig:
    fields.expect("do_layer_norm_before", True, "post-norm, as in the 350M model, is not")
    fields.expect("_remove_final_layer_norm", False, "the final norm is part of the model")
    fields.expect("layer_norm_elementwise_affine", True, "norms have learned scales")
    width = fields.integer("hidden_size", most=MAX_WIDTH)
    fields.expect("word_embed_proj_dim", width, "embeddings as wide as the model; a projection, as in the 350M, is not")
    heads = fields.integer("num_attention_heads", most=MAX_WIDTH)
    if width % heads:
        raise fields.error("num_attention_heads", f"a divisor of hidden_size = {width} is needed")
    biased = fields.flag("enable_bias", True)
    return DecoderConfig(
        "opt",
        vocab_size=fields.integer("vocab_size", most=MAX_VOCABULARY),
        hidden_size=width,
        num_layers=fields.integer("num_hidden_layers", most=MAX_LAYERS),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=width // heads,
        intermediate_size=fields.integer("ffn_dim", most=2**24),
        max_position_embeddings=fields.integer("max_position_embeddings", most=MAX_POSITIONS),
        norm="layer",
        norm_eps=1e-5,
        activation=fields.choice("activation_function", ACTIVATIONS, "relu"),
        gated=False,
        rope=None,
        position_offset=OFFSET,
        qkv_bias=biased,
        out_bias=biased,
        mlp_bias=biased,
        tie_embeddings=fields.flag("tie_word_embeddings", True),
    )


def targets(config: DecoderConfig) -> list[Target]:
    c, decoder = config, "model.decoder"
    positions = (c.max_position_embeddings + OFFSET, c.hidden_size)
    table = [
        whole(("embedding",), f"{decoder}.embed_tokens.weight", (c.vocab_size, c.hidden_size)),
        whole(("positions",), f"{decoder}.embed_positions.weight", positions),
    ]
    for i in range(c.num_layers):
        table += _layer(c, ("layers", i), f"{decoder}.layers.{i}")
    table += norm(("norm",), f"{decoder}.final_layer_norm", c.hidden_size, bias=True)
    if not c.tie_embeddings:
        table.append(whole(("head",), "lm_head.weight", (c.vocab_size, c.hidden_size)))
    return table


def _layer(c: DecoderConfig, path: Path, name: str) -> list[Target]:
    D, F = c.hidden_size, c.intermediate_size
    attention, mlp = (*path, "attention"), (*path, "mlp")
    rows = [
        *norm((*path, "attention_norm"), f"{name}.self_attn_layer_norm", D, bias=True),
        Target((*attention, "qkv", "weight"), qkv(lambda x: f"{name}.self_attn.{x}_proj", "weight", c)),
        whole((*attention, "out", "weight"), f"{name}.self_attn.out_proj.weight", (D, D)),
        *norm((*path, "mlp_norm"), f"{name}.final_layer_norm", D, bias=True),
        whole((*mlp, "up", "weight"), f"{name}.fc1.weight", (F, D)),
        whole((*mlp, "down", "weight"), f"{name}.fc2.weight", (D, F)),
    ]
    if c.qkv_bias:
        rows += [
            Target((*attention, "qkv", "bias"), qkv(lambda x: f"{name}.self_attn.{x}_proj", "bias", c)),
            whole((*attention, "out", "bias"), f"{name}.self_attn.out_proj.bias", (D,)),
            whole((*mlp, "up", "bias"), f"{name}.fc1.bias", (F,)),
            whole((*mlp, "down", "bias"), f"{name}.fc2.bias", (D,)),
        ]
    return rows


OPT = Family("opt", "OPTForCausalLM", read, targets, "model.")
