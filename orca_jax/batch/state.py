"""The small file that says what a run's results were made from, so that no other run goes on from them."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orca_jax.batch.words import BatchError
from orca_jax.core.checks import shown

FORMAT = 1
RUNNING, COMPLETE = "running", "complete"


@dataclass(frozen=True, slots=True)
class State:
    """`settings` is everything that an answer depends on, by name, as plain JSON values.

    Once `status` is COMPLETE: how many lines were answered and how many failed, and the sizes of the two files.
    """

    status: str
    settings: Mapping[str, Any]
    completed: int = 0
    failed: int = 0
    output_bytes: int = 0
    error_bytes: int = 0

    def check_same(self, settings: Mapping[str, Any], where: Path) -> None:
        """Raise BatchError naming the first setting that differs."""
        for name in {**self.settings, **settings}:
            before, now = self.settings.get(name), settings.get(name)
            if before != now:
                raise BatchError(
                    f"{where} was made with {name} = {shown(before)}, but now it is {shown(now)} "
                    "(--restart begins anew, another output name keeps both)"
                )

    def write(self, path: Path) -> None:
        """Replace the file at once: whoever reads it finds the old state or the new one, after a crash too."""
        new = path.with_name(path.name + ".new")
        try:
            with new.open("w", encoding="utf-8") as file:
                json.dump({"format": FORMAT, **asdict(self)}, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
            sync_folder(path.parent)
        except OSError as error:
            raise BatchError(f"cannot write {path}: {error.strerror or error}") from error


def read_state(path: Path) -> State | None:
    """The state beside an output, None where there is none. Raises BatchError for one that cannot be understood."""
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BatchError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise BatchError(f"{path} is damaged: {error} (--restart begins anew)") from error
    if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
        raise BatchError(f"{path} is not the state of a batch, or of another version's (--restart begins anew)")
    try:
        return State(**data)
    except TypeError as error:
        raise BatchError(f"{path} is damaged: {error} (--restart begins anew)") from error


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as they will look when they are read again."""
    return dict(json.loads(json.dumps(settings)))


def sync_folder(path: Path) -> None:
    """Wait until the disk knows the folder's names."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
