"""Shardings follow from one table."""

from dataclasses import replace

import jax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from orca_jax.core.errors import ConfigError
from orca_jax.models.config import DecoderConfig
from orca_jax.models.load import abstract_model
from orca_jax.models.sharding import (
    heads_spec,
    parameter_shardings,
    partition_spec,
    partition_specs,
    rules_for,
    tensor_mesh,
)

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


def test_shardings_stand_in_the_order_of_the_parameters():
    model, mesh = abstract_model(CONFIG), tensor_mesh(jax.devices()[:2])
    leaves = jax.tree.leaves(nnx.split(model)[1])
    shardings = parameter_shardings(model, CONFIG, mesh)
    shares = [s.shard_shape(x.shape) for x, s in zip(leaves, shardings, strict=True)]
    by_path = {path: v.get_value().shape for path, v in nnx.to_flat_state(nnx.state(model))}
    assert [x.shape for x in leaves] == list(by_path.values())
    split = {path: share for (path, whole), share in zip(by_path.items(), shares, strict=True) if share != whole}
    assert split["layers", 1, "attention", "qkv", "weight"] == (1, 4, 8, 32)
    assert split["layers", 0, "attention", "out", "weight"] == (32, 16)
    assert split["layers", 0, "mlp", "up", "weight"] == (2, 24, 32)
    assert split["head",] == (32, 32)
    assert not any(path[-1] == "scale" for path in split)


def test_a_vocabulary_that_does_not_divide_is_kept_whole():
    config = replace(CONFIG, vocab_size=65)
    specs = partition_specs(abstract_model(config), rules_for(config, 2))
    assert specs[("embedding",)] == specs[("head",)] == P(None, None)
    assert specs[("layers", 0, "mlp", "down", "weight")] == P(None, "tensor")


def test_heads_and_feed_forward_must_divide():
    with pytest.raises(ConfigError, match=r"num_kv_heads = 2 cannot be shared out evenly over 4 devices \(take 2 "):
        rules_for(CONFIG, 4)
    with pytest.raises(ConfigError, match=r"intermediate_size = 47 cannot .* over 2 devices \(take 1 "):
        rules_for(replace(CONFIG, intermediate_size=47), 2)


def test_pages_are_split_at_their_heads():
    assert heads_spec(2) == P(None, None, "tensor")
