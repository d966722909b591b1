"""Where the files that are not code live, in a checkout and in an installed wheel alike."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def configs_dir() -> Path:
    """The folder of TOML configurations: `orca_jax/_configs` in a wheel, the top-level `configs` in a checkout."""
    installed = _PACKAGE / "_configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def demo_model_dir() -> Path:
    """The Hugging Face folder of the model that ships inside the package."""
    return _PACKAGE / "demo_model"
