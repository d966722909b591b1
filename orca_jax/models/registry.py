"""Which architectures are served here; everything else is refused by name, with the list of those that are."""

from orca_jax.core.errors import CheckpointError
from orca_jax.models.families.base import Family
from orca_jax.models.families.gpt2 import GPT2
from orca_jax.models.families.llama import LLAMA
from orca_jax.models.families.mistral import MISTRAL
from orca_jax.models.families.opt import OPT
from orca_jax.models.families.qwen2 import QWEN2
from orca_jax.models.families.qwen3 import QWEN3
from orca_jax.models.fields import Fields, brief

FAMILIES: tuple[Family, ...] = (GPT2, OPT, LLAMA, MISTRAL, QWEN2, QWEN3)
ARCHITECTURES = {family.architecture: family for family in FAMILIES}
MODEL_TYPES = {family.name: family for family in FAMILIES}


def family_of(fields: Fields) -> Family:
    """The family that a config.json belongs to: by `architectures`, or by `model_type` where that is absent."""
    architecture, model_type = _architecture(fields), fields.text("model_type", "") or None
    if architecture is None and model_type is None:
        raise CheckpointError(f"{fields.source}: architectures and model_type are missing")
    family = ARCHITECTURES.get(architecture) if architecture else MODEL_TYPES.get(model_type or "")
    if family is None:
        key, value = ("architectures", architecture) if architecture else ("model_type", model_type)
        remote = "; its own code (auto_map) is never run" if "auto_map" in fields else ""
        raise CheckpointError(
            f"{fields.source}: {key} = {brief(value)} is not supported{remote}; supported: {', '.join(ARCHITECTURES)}"
        )
    if model_type is not None and model_type != family.name:
        raise fields.error("model_type", f"architecture {family.architecture} is of type {family.name!r}")
    return family


def _architecture(fields: Fields) -> str | None:
    names = fields.raw("architectures")
    if names is None:
        return None
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise fields.error("architectures", "a list of exactly one architecture is needed")
    return names[0]
