"""Inputs and the names of the files beside them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from orca_jax.batch.paths import Paths


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Paths]:
    """Writes an input and names the files of a run over it."""

    def make(*lines: str, name: str = "in.jsonl", end: str = "\n") -> Paths:
        (tmp_path / name).write_bytes("".join(text + end for text in lines).encode("utf-8", "surrogatepass"))
        return Paths.named(tmp_path / name, tmp_path / "out.jsonl")

    return make
