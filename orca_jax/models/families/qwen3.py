"""Qwen3: each head's query and key are RMS-normed before they are rotated; biases are a switch."""

from orca_jax.models.config import DecoderConfig
from orca_jax.models.families.base import Family
from orca_jax.models.families.llama import read_shape, targets
from orca_jax.models.families.qwen2 import read_windows
from orca_jax.models.fields import Fields


def read(fields: Fields) -> DecoderConfig:
    shape = read_shape(fields, head_dim=128)
    biased = fields.flag("attention_bias", False)
    windows = read_windows(fields, shape["num_layers"])
    return DecoderConfig("qwen3", qk_norm=True, qkv_bias=biased, out_bias=biased, sliding_window=windows, **shape)


QWEN3 = Family("qwen3", "Qwen3ForCausalLM", read, targets)
