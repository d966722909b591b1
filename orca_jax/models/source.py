"""Where a model is: what the `model` argument means, decided once, before anything is read."""

from dataclasses import dataclass, replace
from pathlib import Path

from orca_jax.core.errors import CheckpointError, ConfigError, nearest
from orca_jax.core.resources import demo_model_dir
from orca_jax.models.checkpoint import CheckpointInfo, read_checkpoint
from orca_jax.models.families.base import Family
from orca_jax.models.hub import HUB_ID, fetch
from orca_jax.models.presets import preset_names, preset_path, read_preset

DEMO = "demo"


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A checkpoint's folder, or (`is_preset`) a TOML file with nothing but a shape. `revision` is the Hub commit."""

    name: str
    path: Path
    is_preset: bool = False
    revision: str | None = None

    def read(self) -> tuple[Family, CheckpointInfo]:
        """Family and facts, without the weights. Raises CheckpointError."""
        if self.is_preset:
            return read_preset(self.path)
        family, info = read_checkpoint(self.path)
        return family, replace(info, name=self.name, revision=self.revision)


def find_model(model: str | Path | None, *, load_format: str = "auto", revision: str | None = None) -> ModelSource:
    """What `model` names: a shape in configs/models (for "dummy"), a folder, else a Hub id, which is fetched.

    None and "demo" are the model inside this package, whatever lies in the working directory; a folder of such a name is
    reached as "./demo". Raises CheckpointError or ConfigError.
    """
    name = DEMO if model is None else str(model)
    here = local_source(name, load_format)
    if here is not None:
        if revision is not None:
            raise ConfigError(f"revision = {revision!r} means nothing for {name}, which is not fetched (leave it out)")
        return here
    if preset_path(name) is not None:
        raise ConfigError(f"model = {name!r} is a shape without weights (load_format = 'dummy' gives it random ones)")
    if isinstance(model, Path) or not HUB_ID.fullmatch(name) or Path(name).exists():
        known = preset_names() if load_format == "dummy" else [DEMO]
        raise CheckpointError(
            f"model = {name[:200]!r} is neither a folder nor a Hub id such as 'org/name'{nearest(name, known)}"
        )
    folder, commit = fetch(name, revision, weights=load_format != "dummy")
    return ModelSource(name, folder, revision=commit)


def local_source(name: str, load_format: str) -> ModelSource | None:
    """What the name means without a network: a shape, the model in the package, or a folder; None if nothing."""
    preset = preset_path(name)
    if preset is not None and load_format == "dummy":
        return ModelSource(name, preset, is_preset=True)
    if name == DEMO:
        return ModelSource(name, demo_model_dir())
    return ModelSource(name, Path(name)) if name and Path(name).is_dir() else None


def find_tokenizer(name: str, revision: str | None = None) -> Path:
    """The folder that the `tokenizer` setting names; of a Hub id, everything but the weights is fetched.

    "demo" is the one inside this package. Raises CheckpointError, or ConfigError where the model has been pinned to a
    `revision`: that of another repository would be whatever it is today.
    """
    if name == DEMO:
        return demo_model_dir()
    if Path(name).is_dir():
        return Path(name)
    if revision is not None:
        raise ConfigError(
            f"revision = {revision!r} pins the model, but not tokenizer = {name!r} (fetch that one, and name its folder)"
        )
    if not HUB_ID.fullmatch(name) or Path(name).exists():
        raise CheckpointError(f"tokenizer = {name[:200]!r} is neither a folder nor a Hub id such as 'org/name'")
    return fetch(name, None, weights=False)[0]
