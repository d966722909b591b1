"""The files of a run, and the ways in which they may be in each other's way."""

import stat
from dataclasses import dataclass
from pathlib import Path

from orca_jax.batch.words import BatchError


@dataclass(frozen=True, slots=True)
class Paths:
    """Where a run reads and writes. Until it has ended, results stand in the two `partial` files."""

    source: Path
    output: Path
    errors: Path

    @classmethod
    def named(cls, source: str | Path, output: str | Path, errors: str | Path | None = None) -> "Paths":
        """`errors` is by default the output with `.errors.jsonl` in place of its suffix. Checked by `check`."""
        out = Path(output)
        return cls(Path(source), out, out.with_suffix(".errors.jsonl") if errors is None else Path(errors))

    @property
    def partial_output(self) -> Path:
        return _beside(self.output, ".partial")

    @property
    def partial_errors(self) -> Path:
        return _beside(self.errors, ".partial")

    @property
    def state(self) -> Path:
        """What the results were made from; it stays beside the output."""
        return _beside(self.output, ".state.json")

    def check(self) -> None:
        """Raise BatchError naming the first file that cannot be what it is meant to be."""
        _check_source(self.source)
        written = (self.output, self.errors, self.partial_output, self.partial_errors, self.state)
        for path in (self.output, self.errors):
            if not path.parent.is_dir():
                raise BatchError(f"cannot write {path}: there is no folder {path.parent} (make it first)")
            if path.exists() and not path.is_file():
                raise BatchError(f"cannot write {path}: it is not an ordinary file")
        for path in written:
            if path.exists() and path.samefile(self.source):
                raise BatchError(f"{path} is the input {self.source} itself (give the results another name)")
        if len({_resolved(path) for path in written}) < len(written):
            raise BatchError(f"{self.output} and {self.errors} are in each other's way (choose another --errors)")


def _check_source(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise BatchError(f"cannot read {path}: {error.strerror or error}") from error
    if not stat.S_ISREG(mode):
        raise BatchError(f"cannot read {path}: it is not an ordinary file, and lines are read in any order")


def _resolved(path: Path) -> Path:
    return path.parent.resolve() / path.name


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
