"""Shapes by name: `configs/models/*.toml`, a config.json's keys in TOML, for models whose weights nobody has."""

import tomllib
from pathlib import Path

from orca_jax.core.errors import CheckpointError
from orca_jax.core.resources import configs_dir
from orca_jax.models.checkpoint import CheckpointInfo, describe
from orca_jax.models.families.base import Family
from orca_jax.models.fields import Fields


def preset_path(name: str) -> Path | None:
    """The file of the shape called `name`, None where there is none."""
    path = configs_dir() / "models" / f"{name}.toml"
    return path if Path(name).name == name and path.is_file() else None


def preset_names() -> list[str]:
    return sorted(path.stem for path in (configs_dir() / "models").glob("*.toml"))


def read_preset(path: Path) -> tuple[Family, CheckpointInfo]:
    """The shape in a TOML file. Raises CheckpointError naming file and key; unknown keys are errors."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    fields = Fields(values, str(path))
    family, info = describe(fields, Fields({}, str(path)), path.stem, None)
    fields.refuse_rest()
    return family, info
