"""Typed reading of settings that somebody else wrote: every value is checked for type and range where it is read."""

import math
from collections.abc import Mapping
from typing import Any, Final

from orca_jax.core.errors import CheckpointError, nearest

REQUIRED: Final = object()


class Fields:
    """A mapping with the name of the file it came from. A null counts as absent where there is a default.

    Every method raises CheckpointError with one line that names file, key, value and what is needed.
    """

    def __init__(self, values: Mapping[str, object], source: str):
        self.values = values
        self.source = source
        self._asked: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return self.raw(key) is not None

    def raw(self, key: str, default: object = None) -> object:
        """The value as it is, unchecked; `default` where the key is absent."""
        self._asked.add(key)
        return self.values.get(key, default)

    def refuse_rest(self) -> None:
        """Refuse keys that nobody has asked for: in a file of our own they are slips."""
        for key in self.values:
            if key not in self._asked:
                raise CheckpointError(f"{self.source}: unknown key {key!r}{nearest(key, self._asked)}")

    def error(self, key: str, needed: str) -> CheckpointError:
        return CheckpointError(f"{self.source}: {key} = {brief(self.values.get(key))}, but {needed}")

    def _get(self, key: str, default: Any) -> Any:
        value = self.raw(key)
        if value is None and default is REQUIRED:
            raise CheckpointError(f"{self.source}: {key} is {'null' if key in self.values else 'missing'}")
        return default if value is None else value

    def integer(self, key: str, default: Any = REQUIRED, *, least: int = 1, most: int = 2**31 - 1) -> int:
        value = self._get(key, default)
        if type(value) is not int or not least <= value <= most:
            raise self.error(key, f"an integer from {least} to {most} is needed")
        return value

    def number(self, key: str, default: Any = REQUIRED, *, least: float = 0.0, most: float = 1e9) -> float:
        value = self._get(key, default)
        if type(value) not in (int, float) or not (least <= value <= most and math.isfinite(value)):
            raise self.error(key, f"a number from {least:g} to {most:g} is needed")
        return float(value)

    def flag(self, key: str, default: Any = REQUIRED) -> bool:
        value = self._get(key, default)
        if type(value) is not bool:
            raise self.error(key, "true or false is needed")
        return value

    def text(self, key: str, default: Any = REQUIRED) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.error(key, "a string is needed")
        return value

    def choice(self, key: str, options: Mapping[str, Any], default: Any = REQUIRED) -> Any:
        """What `options` has for the value, which must be one of its keys."""
        value = self.text(key, default)
        if value not in options:
            raise self.error(key, f"one of {', '.join(options)} is needed")
        return options[value]

    def expect(self, key: str, wanted: object, why: str) -> None:
        """Refuse a setting that changes the model in a way that is not implemented here."""
        if self.raw(key, wanted) not in (wanted, None):
            raise self.error(key, f"only {wanted!r} is supported ({why})")

    def inner(self, key: str) -> "Fields | None":
        """The object under `key`, None where there is none."""
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(key, "an object is needed")
        return Fields(value, f"{self.source}: {key}")


def brief(value: object) -> str:
    """A bounded rendering of a value that was found in a file."""
    text = "null" if value is None else repr(value) if not isinstance(value, bool) else str(value).lower()
    return text if len(text) <= 80 else text[:77] + "..."
