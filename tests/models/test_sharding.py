"""Shardings follow from one table."""

import pytest
from jax.sharding import PartitionSpec as P

from orca_jax.core.errors import ConfigError
from orca_jax.models.config import DecoderConfig
from orca_jax.models.load import abstract_model
from orca_jax.models.sharding import partition_spec, partition_specs

CONFIG = DecoderConfig("llama", 64, 32, 2, 4, 2, 8, 48, 64, qkv_bias=True, qk_norm=True)


def test_each_parameter_is_split_where_its_owner_is():
    specs = partition_specs(abstract_model(CONFIG))
    assert specs[("embedding",)] == specs[("head",)] == P("tensor", None)
    assert specs[("layers", 0, "attention", "qkv", "weight")] == P("tensor", None, None, None)
    assert specs[("layers", 1, "attention", "qkv", "bias")] == P("tensor", None, None)
    assert specs[("layers", 0, "attention", "out", "weight")] == P(None, "tensor")
    assert specs[("layers", 0, "mlp", "up", "weight")] == P(None, "tensor", None)
    assert specs[("layers", 0, "mlp", "down", "weight")] == P(None, "tensor")
    assert specs[("layers", 0, "attention", "q_norm", "scale")] == specs[("norm", "scale")] == P(None)


def test_stacked_layers_have_the_same_split_behind_their_first_axis():
    flat, stacked = partition_specs(abstract_model(CONFIG)), partition_specs(abstract_model(CONFIG, layers="scan"))
    for path, spec in stacked.items():
        expected = spec if path[0] != "layers" else P(None, *flat[("layers", 0, *path[1:])])
        assert spec == expected


def test_learned_positions_are_kept_whole():
    config = DecoderConfig("gpt2", 64, 32, 1, 4, 4, 8, 48, 64, norm="layer", rope=None)
    assert partition_specs(abstract_model(config))[("positions",)] == P(None, None)


def test_an_axis_without_a_rule_is_refused():
    with pytest.raises(ConfigError, match="logical axis 'expert' has no rule"):
        partition_spec(("expert", "embed"))
