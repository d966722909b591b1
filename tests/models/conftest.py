"""The committed golden checkpoints, and damaged copies of one of them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

GOLDENS = Path(__file__).parent / "goldens"


@pytest.fixture
def golden(tmp_path: Path) -> Callable[[str], Path]:
    """Copies a golden checkpoint to a folder of its own, once. A case without weights uses its family's."""

    def copy(name: str) -> Path:
        target = tmp_path / "golden" / name
        if target.exists():
            return target
        family = name.partition("-")[0]
        shutil.copytree(GOLDENS / (name if any((GOLDENS / name).glob("model*")) else family), target)
        shutil.copy(GOLDENS / name / "config.json", target)
        shutil.copy(GOLDENS / name / "golden.safetensors", target)
        return target

    return copy


@pytest.fixture
def checkpoint(golden: Callable[[str], Path]) -> Path:
    """A small Llama checkpoint in one file, to be damaged."""
    folder = golden("llama-biases")
    (folder / "golden.safetensors").unlink()
    return folder


@pytest.fixture
def edit_config(checkpoint: Path) -> Callable[..., Path]:
    """Changes keys of that checkpoint's config.json; `...` removes a key."""

    def edit(**changes: object) -> Path:
        path = checkpoint / "config.json"
        values = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))
        return checkpoint

    return edit


@pytest.fixture
def edit_weights(checkpoint: Path) -> Callable[[Callable[[dict[str, np.ndarray]], object]], Path]:
    """Changes that checkpoint's tensors."""

    def edit(change: Callable[[dict[str, np.ndarray]], object]) -> Path:
        path = checkpoint / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)
        return checkpoint

    return edit
