"""Qwen2: biases on q, k and v; a sliding window in its upper layers where the config switches it on."""

from orca_jax.models.config import DecoderConfig
from orca_jax.models.families.base import MAX_LAYERS, MAX_POSITIONS, Family
from orca_jax.models.families.llama import read_shape, targets
from orca_jax.models.fields import Fields

LAYER_TYPES = ("full_attention", "sliding_attention")


def read_windows(fields: Fields, num_layers: int) -> tuple[int | None, ...]:
    """The window of each layer: as `layer_types` says, else layers from `max_window_layers` up; empty for none."""
    window: int | None = None
    if fields.flag("use_sliding_window", False):
        window = fields.integer("sliding_window", 4096, most=MAX_POSITIONS)
    kinds = fields.raw("layer_types")
    if kinds is None:
        first = fields.integer("max_window_layers", 28, least=0, most=MAX_LAYERS)
        kinds = [LAYER_TYPES[window is not None and i >= first] for i in range(num_layers)]
    if not isinstance(kinds, list) or len(kinds) != num_layers or any(kind not in LAYER_TYPES for kind in kinds):
        raise fields.error("layer_types", f"a list of {num_layers} of {' or '.join(LAYER_TYPES)} is needed")
    if window is None and "sliding_attention" in kinds:
        raise fields.error("layer_types", "sliding_attention needs use_sliding_window and sliding_window")
    windows = tuple(window if kind == "sliding_attention" else None for kind in kinds)
    return windows if any(windows) else ()


def read(fields: Fields) -> DecoderConfig:
    shape = read_shape(fields)
    return DecoderConfig("qwen2", qkv_bias=True, sliding_window=read_windows(fields, shape["num_layers"]), **shape)


QWEN2 = Family("qwen2", "Qwen2ForCausalLM", read, targets)
