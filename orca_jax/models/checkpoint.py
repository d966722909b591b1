"""What a checkpoint says about itself: config.json and generation_config.json, read and checked before any weight."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orca_jax.core.errors import CheckpointError
from orca_jax.models.config import DecoderConfig
from orca_jax.models.families.base import Family
from orca_jax.models.fields import Fields
from orca_jax.models.json_file import read_json
from orca_jax.models.registry import family_of

CONFIG, GENERATION = "config.json", "generation_config.json"
DTYPES = {name: name for name in ("float32", "bfloat16", "float16")}
DEFAULTS = {
    "temperature": (0.0, 100.0), "top_p": (0.0, 1.0), "min_p": (0.0, 1.0), "repetition_penalty": (1e-6, 100.0)
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """Facts of a checkpoint that the rest of the engine needs.

    `dtype` is what the checkpoint asks for, None where it does not say. `folder` is None for a shape without files, and
    where there is a tokenizer it lies in that folder. `eos_token_ids` come from generation_config.json where it names
    any, else from config.json. `generation` holds the sampling defaults that the checkpoint recommends. `fingerprint`
    changes with config, tensor names, types, shapes and file sizes (not with the values of the weights). `revision` is
    the Hub commit, None for a local folder.
    """

    name: str
    architecture: str
    config: DecoderConfig
    folder: Path | None = None
    dtype: str | None = None
    bos_token_id: int | None = None
    pad_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    generation: Mapping[str, float | int | bool] = field(default_factory=dict)
    fingerprint: str = ""
    revision: str | None = None

    @property
    def max_context(self) -> int:
        """The longest sequence, prompt and answer, that the positions were made for."""
        return self.config.max_context


def read_checkpoint(folder: Path) -> tuple[Family, CheckpointInfo]:
    """Everything but the weights. Raises CheckpointError naming file and key."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder" if folder.exists() else f"{folder} does not exist")
    fields = Fields(read_json(folder / CONFIG), str(folder / CONFIG))
    path = folder / GENERATION
    return describe(fields, Fields(read_json(path) if path.exists() else {}, str(path)), folder.name, folder)


def describe(fields: Fields, generation: Fields, name: str, folder: Path | None) -> tuple[Family, CheckpointInfo]:
    """What a config (and a generation config) means."""
    family = family_of(fields)
    if "quantization_config" in fields:
        method = (fields.inner("quantization_config") or fields).values.get("quant_method")
        raise fields.error("quantization_config", f"quantised weights are not supported (quant_method {method!r})")
    config = family.config(fields)
    vocab = config.vocab_size
    own_ends = _tokens(fields, "eos_token_id", vocab)  # checked even where generation_config.json has others
    return family, CheckpointInfo(
        name=name,
        architecture=family.architecture,
        config=config,
        folder=folder,
        dtype=_dtype(fields),
        bos_token_id=_token(fields, "bos_token_id", vocab),
        pad_token_id=_token(fields, "pad_token_id", vocab, least=-1),
        eos_token_ids=_tokens(generation, "eos_token_id", vocab) or own_ends,
        generation=_generation(generation),
        fingerprint=hashlib.sha256(json.dumps(fields.values, sort_keys=True).encode()).hexdigest(),
    )


def _dtype(fields: Fields) -> str | None:
    """`dtype`, which older files call `torch_dtype`."""
    found = {fields.choice(key, DTYPES) for key in ("dtype", "torch_dtype") if key in fields}
    if len(found) > 1:
        raise fields.error("torch_dtype", f"dtype = {fields.values['dtype']!r}: keep one of them")
    return found.pop() if found else None


def _token(fields: Fields, key: str, vocab: int, least: int = 0) -> int | None:
    if key not in fields:
        return None
    token = fields.integer(key, least=least, most=vocab - 1)
    return None if token < 0 else token  # -1 is how some checkpoints say "none"


def _tokens(fields: Fields, key: str, vocab: int) -> tuple[int, ...]:
    """One id or a list of them."""
    value = fields.raw(key)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if any(type(token) is not int or not 0 <= token < vocab for token in ids):
        raise fields.error(key, f"token ids from 0 to {vocab - 1} are needed (vocab_size = {vocab})")
    return tuple(dict.fromkeys(ids))


def _generation(fields: Fields) -> dict[str, float | int | bool]:
    found: dict[str, float | int | bool] = {}
    for key, (least, most) in DEFAULTS.items():
        if key in fields:
            found[key] = fields.number(key, least=least, most=most)
    if "top_k" in fields:
        found["top_k"] = fields.integer("top_k", least=-1)
    if "do_sample" in fields:
        found["do_sample"] = fields.flag("do_sample")
    return found
