"""The model that ships: small enough, complete, licensed, and the same in transformers and here."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer

from orca_jax.core.resources import configs_dir, demo_model_dir
from orca_jax.models.checkpoint import read_checkpoint
from orca_jax.models.load import load_model
from orca_jax.models.presets import preset_path, read_preset
from orca_jax.testing import oracle
from orca_jax.train.config import load_config
from orca_jax.train.model import window_attention
from orca_jax.train.tokenizer import CHAT_TEMPLATE, SPECIAL

FOLDER = demo_model_dir()
GOLDEN = Path(__file__).with_name("demo_model_logits.npz")


def test_the_folder_is_complete_and_small():
    names = {file.name for file in FOLDER.iterdir()}
    assert names >= {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "LICENSE"}
    assert (FOLDER / "model.safetensors").stat().st_size <= 12e6
    assert "Python Software Foundation License" in " ".join((FOLDER / "LICENSE").read_text("utf-8").split())
    assert json.loads((FOLDER / "tokenizer_config.json").read_text("utf-8"))["chat_template"] == CHAT_TEMPLATE


def test_the_card_states_what_was_measured():
    facts = json.loads((FOLDER / "training.json").read_text("utf-8"))
    card = (FOLDER / "README.md").read_text("utf-8")
    assert f"**{facts['bits_per_byte']:.3f}**" in card
    assert facts["bytes"] == (FOLDER / "model.safetensors").stat().st_size


def test_the_shape_is_the_same_in_all_three_places():
    _, shipped = read_checkpoint(FOLDER)
    _, preset = read_preset(preset_path("demo"))
    trained = load_config(configs_dir() / "train/demo.toml").model.decoder()
    assert shipped.config == preset.config == trained
    assert shipped.eos_token_ids == preset.eos_token_ids == (0,)


def test_the_tokenizer_loses_nothing_and_marks_the_turns():
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    text = Path(__file__).read_text("utf-8") + "\téß漢字 😀 x=1_000\r\n"
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    assert [tokenizer.token_to_id(mark) for mark in SPECIAL] == [0, 1, 2, 3]


@pytest.fixture(scope="module")
def logits():
    """A compiled dense forward pass of the shipped model in float32, over 64 tokens."""
    loaded = load_model(FOLDER, dtype="float32")
    attends = [window_attention(jnp.ones((1, 64), int), jnp.dtype("float32"))] * loaded.config.num_layers

    @jax.jit
    def forward(tokens):
        hidden, _ = loaded.model(tokens, jnp.arange(64), [None] * len(attends), attends)
        return loaded.model.logits(hidden)

    return lambda ids: np.asarray(forward(jnp.asarray(np.pad(ids, (0, 64 - len(ids))))))[: len(ids)]


def test_transformers_computes_the_same(logits):
    golden = np.load(GOLDEN)
    mine = logits(golden["prompt"])[-2:]
    assert np.abs(mine - golden["logits"]).max() < 1e-4 * oracle.spread(golden["logits"])


def test_transformers_continues_alike(logits):
    golden = np.load(GOLDEN)
    ids = golden["prompt"].tolist()
    for expected in golden["answer"].tolist():
        ids.append(int(logits(ids)[-1].argmax()))
        assert ids[-1] == expected
