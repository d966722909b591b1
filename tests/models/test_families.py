"""Reading config.json: both spellings, each family's defaults and rules, and the refusal of everything else."""

import json
from typing import Any

import pytest

from orca_jax.core.errors import CheckpointError
from orca_jax.models.config import DecoderConfig, RopeConfig
from orca_jax.models.families.llama import targets
from orca_jax.models.fields import Fields
from orca_jax.models.registry import ARCHITECTURES, family_of

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 512,
}  # fmt: skip
GPT2: dict[str, Any] = {
    "architectures": ["GPT2LMHeadModel"], "vocab_size": 100, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 32
}  # fmt: skip
OPT: dict[str, Any] = {
    "architectures": ["OPTForCausalLM"], "vocab_size": 100, "hidden_size": 64, "ffn_dim": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 32, "word_embed_proj_dim": 64,
}  # fmt: skip
SLIDING = {"use_sliding_window": True, "sliding_window": 8}


def read(base: dict[str, Any], **changes: object) -> DecoderConfig:
    values = {key: value for key, value in {**base, **changes}.items() if value is not ...}
    fields = Fields(values, "config.json")
    return family_of(fields).config(fields)


def qwen(version: int, **changes: object) -> DecoderConfig:
    return read(LLAMA, architectures=[f"Qwen{version}ForCausalLM"], **changes)


def rope(**changes: object) -> RopeConfig:
    config = read(LLAMA, **changes)
    assert config.rope is not None
    return config.rope


def test_absent_settings_have_the_defaults_of_the_format():
    config = read(LLAMA)
    assert (config.num_kv_heads, config.head_dim, config.norm_eps) == (4, 16, 1e-6)
    assert not (config.tie_embeddings or config.qkv_bias or config.out_bias or config.mlp_bias or config.sliding_window)
    assert read(GPT2).tie_embeddings and read(OPT).tie_embeddings
    assert (read(GPT2).intermediate_size, read(GPT2).activation) == (256, "gelu_tanh")
    assert (read(OPT).position_offset, read(OPT).activation) == (2, "relu")
    assert qwen(3).head_dim == 128 and qwen(3).qk_norm and not qwen(3).qkv_bias
    assert qwen(2).head_dim == 16 and qwen(2).qkv_bias and not qwen(2).out_bias


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn", "llama3"])
def test_both_spellings_mean_the_same(kind: str):
    scaling = {"factor": 4.0, "original_max_position_embeddings": 128}
    if kind == "llama3":
        scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    new = rope(rope_parameters={"rope_type": kind, "rope_theta": 5e5, **scaling})
    assert new == rope(rope_theta=5e5, rope_scaling={"rope_type": kind, **scaling})
    assert new == rope(rope_theta=5e5, rope_scaling={"type": kind, **scaling})
    assert new == rope(rope_theta=5e5, rope_scaling={"type": kind, "rope_type": kind, **scaling})
    assert (new.kind, new.theta, new.factor) == (kind, 5e5, 4.0)
    # dynamic NTK is defined by the model's own length
    assert new.original_max_position_embeddings == (512 if kind == "dynamic" else 128)


def test_without_scaling_only_the_base_matters():
    assert rope() == rope(rope_scaling=None) == rope(rope_parameters={"rope_type": "default"}) == RopeConfig()
    assert rope(rope_theta=7e4) == rope(rope_parameters={"rope_theta": 7e4, "rope_type": "default"})


@pytest.mark.parametrize(
    ("changes", "longest"),
    [
        ({}, 512),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 1024),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, 1024),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}}, 2048),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}}, 512),
    ],
)
def test_scaled_positions_allow_longer_sequences(changes: dict[str, Any], longest: int):
    assert read(LLAMA, **changes).max_context == longest


def test_mistral_has_one_window_or_none():
    mistral = {**LLAMA, "architectures": ["MistralForCausalLM"]}
    assert read(mistral).sliding_window == (4096,) * 3
    assert read(mistral, sliding_window=16).sliding_window == (16,) * 3
    assert read(mistral, sliding_window=None).sliding_window == ()


@pytest.mark.parametrize("version", [2, 3])
def test_qwen_slides_only_where_its_rules_say(version: int):
    assert qwen(version, sliding_window=8).sliding_window == ()
    assert qwen(version, **SLIDING).sliding_window == ()  # max_window_layers is 28 unless it is given
    assert qwen(version, **SLIDING, max_window_layers=1).sliding_window == (None, 8, 8)
    assert qwen(version, **SLIDING, max_window_layers=0).sliding_window == (8, 8, 8)
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    assert qwen(version, **SLIDING, layer_types=kinds).sliding_window == (8, None, 8)


def test_an_architecture_can_be_known_by_its_type_alone():
    assert read({**LLAMA, "architectures": ...}, model_type="llama") == read(LLAMA)


def test_code_in_the_checkpoint_is_ignored_where_the_architecture_is_known():
    assert read(LLAMA, auto_map={"AutoModelForCausalLM": "modeling_x.X"}) == read(LLAMA)


BAD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (LLAMA, {"architectures": ["MambaForCausalLM"]}, "architectures = 'MambaForCausalLM' is not supported; supported: GPT2"),
    (LLAMA, {"architectures": ["X"], "auto_map": {"AutoModel": "x.X"}}, "its own code (auto_map) is never run; supported"),
    (LLAMA, {"architectures": ["LlamaForCausalLM", "X"]}, "a list of exactly one architecture is needed"),
    (LLAMA, {"architectures": "LlamaForCausalLM"}, "a list of exactly one architecture is needed"),
    (LLAMA, {"architectures": ...}, "architectures and model_type are missing"),
    (LLAMA, {"architectures": ..., "model_type": "mamba"}, "model_type = 'mamba' is not supported"),
    (LLAMA, {"model_type": "qwen2"}, "model_type = 'qwen2', but architecture LlamaForCausalLM is of type 'llama'"),
    (LLAMA, {"num_attention_heads": 0}, "num_attention_heads = 0, but an integer from 1"),
    (LLAMA, {"num_attention_heads": -4}, "num_attention_heads = -4, but an integer from 1"),
    (LLAMA, {"num_attention_heads": "32"}, "num_attention_heads = '32', but an integer from 1"),
    (LLAMA, {"num_attention_heads": 10**9}, "num_attention_heads = 1000000000, but an integer from 1 to"),
    (LLAMA, {"num_attention_heads": True}, "num_attention_heads = true, but an integer from 1"),
    (LLAMA, {"num_attention_heads": 5}, "a divisor of hidden_size = 64 is needed (or head_dim)"),
    (LLAMA, {"num_key_value_heads": 3}, "num_key_value_heads = 3, but a divisor of num_attention_heads = 4"),
    (LLAMA, {"head_dim": 15}, "head_dim = 15, but an even head width is needed"),
    (LLAMA, {"hidden_size": 2**40}, "hidden_size = 1099511627776, but an integer from 1 to 1048576"),
    (LLAMA, {"hidden_size": ...}, "hidden_size is missing"),
    (LLAMA, {"vocab_size": None}, "vocab_size is null"),
    (LLAMA, {"num_hidden_layers": 1.0}, "num_hidden_layers = 1.0, but an integer"),
    (LLAMA, {"max_position_embeddings": ...}, "max_position_embeddings is missing"),
    (LLAMA, {"max_position_embeddings": 0}, "max_position_embeddings = 0, but an integer from 1"),
    (LLAMA, {"max_position_embeddings": 10**9}, "max_position_embeddings = 1000000000, but an integer from 1 to 16777216"),
    (LLAMA, {"rms_norm_eps": "tiny"}, "rms_norm_eps = 'tiny', but a number from 0"),
    (LLAMA, {"hidden_act": "mish"}, "hidden_act = 'mish', but one of silu"),
    (LLAMA, {"tie_word_embeddings": 1}, "tie_word_embeddings = 1, but true or false is needed"),
    (LLAMA, {"attention_bias": "yes"}, "attention_bias = 'yes', but true or false is needed"),
    (LLAMA, {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5, but only 1.0 is supported"),
    (LLAMA, {"rope_interleaved": True}, "rope_interleaved = true, but only False is supported"),
    (LLAMA, {"rope_theta": None}, "rope_theta is null"),
    (LLAMA, {"rope_theta": 0}, "rope_theta = 0, but a number from 1"),
    (LLAMA, {"rope_scaling": "linear"}, "rope_scaling = 'linear', but an object is needed"),
    (LLAMA, {"rope_scaling": {"type": "longrope", "factor": 2}}, "type = 'longrope', but one of default, linear"),
    (LLAMA, {"rope_scaling": {"type": "linear"}}, "rope_scaling: factor is missing"),
    (LLAMA, {"rope_scaling": {"type": "linear", "factor": 0}}, "rope_scaling: factor = 0, but a number from 1"),
    (LLAMA, {"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2}}, "rope_type and type differ"),
    (LLAMA, {"rope_scaling": {"factor": 2}}, "rope_scaling: rope_type is missing"),
    (LLAMA, {"rope_scaling": {"type": "linear", "factor": 2, "beta": 1}}, "beta is not a setting of rope type 'linear'"),
    (LLAMA, {"rope_scaling": {"type": "yarn", "factor": 2, "beta_fast": 1, "beta_slow": 2}}, "at most beta_fast = 1"),
    (LLAMA, {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 2e4, "rope_type": "default"}}, "has two values"),
    (LLAMA, {"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"rope_type": "default"}}, "differ"),
    (GPT2, {"n_head": 5}, "n_head = 5, but a divisor of n_embd = 64"),
    (GPT2, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = true, but only False"),
    (OPT, {"do_layer_norm_before": False}, "do_layer_norm_before = false, but only True is supported (post-norm, as in"),
    (OPT, {"word_embed_proj_dim": 32}, "word_embed_proj_dim = 32, but only 64 is supported (embeddings as wide"),
    ({**LLAMA, "architectures": ["Qwen2ForCausalLM"]}, {"layer_types": ["full_attention"]}, "a list of 3 of full_attention"),
    ({**LLAMA, "architectures": ["Qwen2ForCausalLM"]}, {"layer_types": ["sliding_attention"] * 3}, "use_sliding_window"),
    ({**LLAMA, "architectures": ["MistralForCausalLM"]}, {"sliding_window": 0}, "sliding_window = 0, but an integer from 1"),
]  # fmt: skip


@pytest.mark.parametrize(("base", "changes", "message"), BAD, ids=[json.dumps(c, default=str)[:60] for _, c, _ in BAD])
def test_a_bad_setting_is_refused_with_a_line_that_names_it(
    base: dict[str, Any], changes: dict[str, Any], message: str
):
    with pytest.raises(CheckpointError) as refusal:
        read(base, **changes)
    text = str(refusal.value)
    assert message in text and text.startswith("config.json") and "\n" not in text and len(text) < 300


def test_a_refusal_lists_what_is_supported():
    with pytest.raises(CheckpointError) as refusal:
        read(LLAMA, architectures=["X"])
    assert all(name in str(refusal.value) for name in ARCHITECTURES)


def test_the_rows_of_the_fused_product_are_ordered_by_key_value_head():
    config = read(LLAMA, num_key_value_heads=2)
    pieces = {t.path: t.pieces for t in targets(config)}[("layers", 0, "attention", "qkv", "weight")]
    assert [piece.tensor.split(".")[-2] for piece in pieces] == ["q_proj", "k_proj", "v_proj"]
    assert [piece.shape for piece in pieces] == [(64, 64), (32, 64), (32, 64)]
