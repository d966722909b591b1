"""The shapes in configs/models: each loads, and has as many parameters as the model is known to have."""

from pathlib import Path

import pytest

from orca_jax.core.errors import CheckpointError, ConfigError
from orca_jax.models.load import abstract_model, count_parameters, load_model
from orca_jax.models.presets import preset_names, preset_path, read_preset
from orca_jax.models.source import find_model

# published counts where there are any; for the paper's four, 12 L D^2 and what the rest adds
KNOWN = {
    "gpt-13b": 12_858_214_400,
    "gpt-101b": 101_219_225_600,
    "gpt-175b": 174_615_846_912,
    "gpt-341b": 340_580_505_600,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
}


def test_every_shape_that_was_promised_is_there():
    assert set(KNOWN) <= set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_a_shape_loads_and_has_the_right_number_of_parameters(name: str):
    path = preset_path(name)
    assert path is not None
    _, info = read_preset(path)
    count = count_parameters(abstract_model(info.config, "bfloat16", layers="scan"))
    assert count == KNOWN.get(name, count) and info.name == name


@pytest.mark.parametrize("name", [name for name in KNOWN if name.startswith("gpt")])
def test_the_papers_models_have_heads_of_128_and_the_size_in_their_name(name: str):
    path = preset_path(name)
    assert path is not None
    config = read_preset(path)[1].config
    assert (config.head_dim, config.num_heads, config.max_position_embeddings) == (128, config.num_layers, 2048)
    blocks = 12 * config.num_layers * config.hidden_size**2
    assert blocks == pytest.approx(float(name[4:-1]) * 1e9, rel=0.04)


def test_a_shape_has_no_weights_to_load():
    with pytest.raises(ConfigError, match=r"shape without weights \(load_format = 'dummy'"):
        find_model("llama-3.1-8b")


def test_a_slip_in_a_shape_is_refused_with_the_nearest_key(tmp_path: Path):
    path = preset_path("qwen3-0.6b")
    assert path is not None
    copy = tmp_path / "slip.toml"
    copy.write_text(path.read_text().replace("rms_norm_eps", "rms_norm_epsilon"))
    with pytest.raises(
        CheckpointError, match=r"slip.toml: unknown key 'rms_norm_epsilon' \(did you mean 'rms_norm_eps'"
    ):
        read_preset(copy)


def test_an_unknown_shape_is_refused_with_the_nearest_name():
    with pytest.raises(CheckpointError, match=r"'llama-3.1-9b' is neither a folder nor a Hub id .*'llama-3.1-8b'"):
        load_model("llama-3.1-9b", load_format="dummy")
