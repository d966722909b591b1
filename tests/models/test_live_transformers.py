"""The comparison with transformers itself, on fresh checkpoints, where torch is installed."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from orca_jax.testing import oracle

pytest.importorskip("torch", reason="torch is not installed: the committed goldens stand in for it")
pytest.importorskip("transformers", reason="transformers is not installed: the committed goldens stand in for it")
# their imports warn about themselves
pytestmark = pytest.mark.filterwarnings("default")


def test_fresh_checkpoints_of_every_case_agree(tmp_path: Path):
    from orca_jax.models.load import load_model
    from orca_jax.testing import goldens

    for case in goldens.CASES:
        own = goldens.make(case, tmp_path, seed=1)
        for file in (tmp_path / (case.weights_of or case.name)).glob("model*"):
            if file.parent != own:
                shutil.copy(file, own)
        expected = load_file(own / "golden.safetensors")
        prompt, greedy = expected["prompt"].tolist(), expected["greedy"].tolist()
        logits = oracle.logits(load_model(own, dtype="float32").model, prompt + greedy)
        difference = np.abs(logits[: len(prompt)] - expected["logits"]).max() / oracle.spread(expected["logits"])
        print(f"{case.name}: {difference:.1e} of the spread")
        assert difference < 1e-4, case.name
        assert logits.argmax(-1)[len(prompt) - 1 : -1].tolist() == greedy, case.name
