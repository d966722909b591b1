"""Settings as fields of frozen dataclasses that know their meaning and bounds, for checks and command lines alike."""

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, get_args

from orca_jax.core.errors import ConfigError


def setting(default: object, about: str, least: float | None = None, most: float | None = None,
             choices: tuple[str, ...] = ()) -> Any:  # fmt: skip
    """A field with what the command line and the checks need to know of it: its meaning, bounds or choices."""
    return field(default=default, metadata={"help": about, "least": least, "most": most, "choices": choices})


def flag(name: str) -> str:
    """The command line's spelling of a setting."""
    return "--" + name.replace("_", "-")


def allowed_types(annotation: object) -> tuple[type, ...]:
    """The types in a field's annotation: `int | None` gives (int, NoneType)."""
    return tuple(get_args(annotation)) or (annotation,)  # type: ignore[return-value]


def check_settings(settings: Any) -> None:
    """Check every field of a dataclass of settings by itself. Raises ConfigError."""
    for spec in fields(settings):
        check_setting(spec.name, getattr(settings, spec.name), spec.type, spec.metadata)


def check_setting(name: str, value: object, annotation: object, bounds: Mapping[str, Any]) -> None:
    types = allowed_types(annotation)
    # a bool is an int to Python and an int will do for a float, so isinstance alone would say the wrong thing
    fits = type(value) in types or (type(value) is int and float in types)
    if not fits:
        wanted = " or ".join("None" if kind is type(None) else kind.__name__ for kind in types)
        raise ConfigError(f"{name} = {value!r} is a {type(value).__name__}, but {wanted} is needed ({flag(name)})")
    if value is None:
        return
    if isinstance(value, str) and not value.strip():
        raise ConfigError(f"{name} is an empty string: leave it out or name something ({flag(name)})")
    if bounds["choices"] and value not in bounds["choices"]:
        raise ConfigError(f"{name} = {value!r} is none of {', '.join(bounds['choices'])} ({flag(name)})")
    _check_range(name, value, bounds["least"], bounds["most"])


def _check_range(name: str, value: Any, least: float | None, most: float | None) -> None:
    if least is not None and not value >= least:  # NaN is not, either
        raise ConfigError(f"{name} = {value}, but it must be at least {least} ({flag(name)} {least} or more)")
    if most is not None and value > most:
        raise ConfigError(f"{name} = {value}, but it must be at most {most} ({flag(name)} {most} or less)")
