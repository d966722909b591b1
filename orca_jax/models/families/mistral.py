"""Mistral: Llama's tensors, with one sliding window for all layers (or none)."""

from orca_jax.models.config import DecoderConfig
from orca_jax.models.families.base import MAX_POSITIONS, Family
from orca_jax.models.families.llama import read_shape, targets
from orca_jax.models.fields import Fields


def read(fields: Fields) -> DecoderConfig:
    shape = read_shape(fields)
    windows: tuple[int | None, ...] = ()
    # absent means 4096 (the default of the format), null means full attention
    if fields.raw("sliding_window", 4096) is not None:
        windows = (fields.integer("sliding_window", 4096, most=MAX_POSITIONS),) * shape["num_layers"]
    kinds = fields.raw("layer_types")
    if isinstance(kinds, list) and any(
        kind != ("sliding_attention" if windows else "full_attention") for kind in kinds
    ):
        raise fields.error("layer_types", "this architecture treats all layers alike (as its sliding_window says)")
    return DecoderConfig("mistral", sliding_window=windows, **shape)


MISTRAL = Family("mistral", "MistralForCausalLM", read, targets)
