"""In float32 every family agrees with transformers, whose answers are committed beside the checkpoints."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from orca_jax.models.load import load_model
from orca_jax.testing import oracle

TOLERANCE = 1e-4  # of the logits' spread
CASES = sorted(path.parent.name for path in (Path(__file__).parent / "goldens").glob("*/golden.safetensors"))


def test_there_is_a_golden_for_each_family_and_each_rope_scaling():
    assert {"gpt2", "opt", "llama", "mistral", "qwen2", "qwen3"} <= set(CASES)
    assert {f"llama-{kind}" for kind in ("linear", "dynamic", "yarn", "llama3")} <= set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_logits_and_greedy_continuation_are_those_of_transformers(name: str, golden: Callable[[str], Path]):
    folder = golden(name)
    expected = load_file(folder / "golden.safetensors")
    model = load_model(folder, dtype="float32").model
    tokens = [*expected["prompt"].tolist(), *expected["greedy"].tolist()]
    logits = oracle.logits(model, tokens)
    prompt_logits = logits[: len(expected["prompt"])]
    difference = np.abs(prompt_logits - expected["logits"]).max() / oracle.spread(expected["logits"])
    assert difference < TOLERANCE
    # each token of the continuation is the model's own choice after the ones before it: greedy decoding, seen at once
    assert logits.argmax(-1)[len(expected["prompt"]) - 1 : -1].tolist() == expected["greedy"].tolist()


def test_greedy_of_the_oracle_is_the_same_continuation(golden: Callable[[str], Path]):
    folder = golden("llama")
    expected = load_file(folder / "golden.safetensors")
    model = load_model(folder, dtype="float32").model
    assert oracle.greedy(model, expected["prompt"].tolist(), 16) == expected["greedy"].tolist()
