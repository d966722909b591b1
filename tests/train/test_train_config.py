from pathlib import Path

import pytest

from orca_jax.core.errors import ConfigError
from orca_jax.train.config import load_config, parse_config

DEMO = Path(__file__).resolve().parents[2] / "configs/train/demo.toml"


def test_the_demo_configuration_fits_into_twelve_megabytes():
    shape = load_config(DEMO).model
    attention = (shape.num_heads + 2 * shape.num_kv_heads + shape.num_heads) * shape.head_dim * shape.hidden_size
    layer = attention + 3 * shape.intermediate_size * shape.hidden_size + 2 * shape.hidden_size
    assert 2 * (shape.vocab_size * shape.hidden_size + shape.num_layers * layer) < 12e6


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"modle": {}}, r"unknown section \[modle\] \(did you mean 'model'\?\)"),
        ({"run": {"minute": 3}}, r"unknown key run.minute \(did you mean 'minutes'\?\)"),
        ({"data": {"windows": [[0.5, 64]]}}, r"data.windows begin at \[0.5\], but shares .* ascend from 0.0"),
        ({"data": {"windows": [[0.0, 100]]}}, "data.windows names 100 tokens, but a divisor of 1024 is needed"),
    ],
)
def test_what_cannot_be_meant_is_refused(tables, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(tables)


def test_a_missing_or_broken_file_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the training configuration"):
        load_config(tmp_path / "nowhere.toml")
    (tmp_path / "broken.toml").write_text("[run\n")
    with pytest.raises(ConfigError, match=r"broken.toml: Expected '\]'"):
        load_config(tmp_path / "broken.toml")


def test_windows_lengthen_as_the_run_goes_on():
    data = parse_config({"data": {"windows": [[0.0, 256], [0.5, 1024]]}}).data
    assert [data.window_at(share) for share in (0.0, 0.49, 0.5, 1.0)] == [256, 256, 1024, 1024]
