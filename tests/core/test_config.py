"""Settings are honoured or refused by name; the numbered rows are those of the second table of the trust page."""

import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_jax.core.config import DEFAULT_CACHE, EngineConfig, load_config, load_settings
from orca_jax.core.errors import ConfigError
from orca_jax.core.unsupported import SETTINGS_OF_OTHERS

ENGINES = Path(__file__).parents[2] / "configs" / "engines"


def refusal(**settings: object) -> str:
    with pytest.raises(ConfigError) as caught:
        EngineConfig.from_settings(settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults_are_valid_and_frozen():
    config = EngineConfig()
    assert (config.model, config.seed, config.lookahead, config.default_max_tokens) == (None, 0, 1, 256)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1


@pytest.mark.parametrize("size", [0, -1, 3, True, "2"])
def test_row_17_parallel_sizes_other_than_one_are_refused(size):
    for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
        message = refusal(**{name: size})
        assert name in message and repr(size) in message and "set it to 1" in message


def test_row_17_one_device_may_be_asked_for():
    assert EngineConfig.from_settings({"tensor_parallel_size": 1, "data_parallel_size": 1}) == EngineConfig()


@pytest.mark.parametrize("share", [0, 0.0, -0.5, 1.5, math.nan, math.inf])
def test_row_18_memory_share_outside_its_range(share):
    message = refusal(gpu_memory_utilization=share)
    assert f"gpu_memory_utilization = {share}" in message and "above 0 and at most 1" in message


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"block_size": 0}, ["block_size = 0", "at least 1"]),
        ({"block_size": 3}, ["block_size = 3", "power of two"]),
        ({"block_size": 10**6}, ["block_size = 1000000", "at most 256"]),
        ({"max_num_seqs": 0}, ["max_num_seqs = 0", "at least 1", "--max-num-seqs"]),
        ({"max_num_batched_tokens": 8, "max_num_seqs": 16}, ["max_num_batched_tokens = 8", "max_num_seqs = 16"]),
        (
            {"max_num_batched_tokens": 64, "max_model_len": 128, "enable_chunked_prefill": False},
            ["max_num_batched_tokens = 64", "max_model_len = 128", "enable_chunked_prefill"],
        ),
        ({"deterministic": True, "enable_chunked_prefill": False}, ["deterministic", "enable_chunked_prefill"]),
        ({"async_scheduling": False, "lookahead": 1}, ["async_scheduling = False", "lookahead = 1"]),
        ({"skip_tokenizer_init": True, "tokenizer": "x"}, ["skip_tokenizer_init", "tokenizer = 'x'"]),
    ],
)
def test_row_19_sizes_and_contradictions(settings, parts):
    message = refusal(**settings)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"max_model_len": 1}, "at least 2"),
        ({"max_model_len": 2**24 + 1}, "at most 16777216"),
        ({"kv_cache_memory_bytes": 0}, "at least 1"),
        ({"default_max_tokens": 0}, "at least 1"),
        ({"max_logprobs": 21}, "at most 20"),
        ({"lookahead": 2}, "at most 1"),
        ({"seed": -1}, "at least 0"),
        ({"seed": True}, "is a bool, but int is needed"),
        ({"max_num_seqs": "16"}, "is a str, but int or None is needed"),
        ({"max_num_seqs": 1.5}, "is a float"),
        ({"dtype": "int4"}, "none of auto, float32, bfloat16, float16"),
        ({"load_format": "pt"}, "none of auto"),
        ({"model": ""}, "empty string"),
        ({"async_scheduling": 1}, "is a int, but a bool is needed"),
    ],
)
def test_ranges_and_types(settings, part):
    message = refusal(**settings)
    assert part in message and next(iter(settings)) in message


def test_unknown_name_is_answered_with_the_nearest():
    assert "did you mean 'max_model_len'?" in refusal(max_model_length=8)


@pytest.mark.parametrize("name", sorted(SETTINGS_OF_OTHERS))
def test_names_of_other_engines_are_refused_unless_they_ask_for_nothing(name):
    for neutral in SETTINGS_OF_OTHERS[name]:
        assert EngineConfig.from_settings({name: neutral}) == EngineConfig()
    assert name in refusal(**{name: "something else"})


def test_async_scheduling_is_the_lookahead():
    assert EngineConfig.from_settings({"async_scheduling": False}).lookahead == 0
    assert EngineConfig.from_settings({"async_scheduling": True, "lookahead": 1}).lookahead == 1
    assert EngineConfig.from_settings({"async_scheduling": None}).lookahead == 1


@pytest.mark.parametrize("path", sorted(ENGINES.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_engine_configs_load(path):
    assert load_config(path) != EngineConfig()


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"max_model_length = 8", "did you mean 'max_model_len'?"),
        (b"seed = 1\nseed = 2", "not valid TOML"),
        (b"\xff\xfe", "not valid TOML"),
        (b"[engine]\nseed = 1", "table [engine]"),
        (b"max_num_seqs = 0", "max_num_seqs = 0"),
    ],
)
def test_bad_files_are_refused_with_their_name(tmp_path, content, part):
    path = tmp_path / "engine.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(path) in str(caught.value) and part in str(caught.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read config file .*absent\.toml: No such file"):
        load_settings(tmp_path / "absent.toml")


def test_none_in_a_file_is_none(tmp_path):
    path = tmp_path / "engine.toml"
    path.write_text('compilation_cache_dir = "none"\n')
    assert load_config(path).cache_path("/told") is None


def test_sizes_may_be_written_with_a_unit():
    assert EngineConfig.from_settings({"kv_cache_memory_bytes": "64MiB"}).kv_cache_memory_bytes == 2**26
    assert EngineConfig.from_settings({"kv_cache_memory_bytes": "1.5k"}).kv_cache_memory_bytes == 1500
    with pytest.raises(ConfigError, match="'2 bananas' is not a size"):
        EngineConfig.from_settings({"kv_cache_memory_bytes": "2 bananas"})


def test_compiled_programs_are_kept_where_asked_else_where_jax_was_told_else_at_home():
    assert EngineConfig(compilation_cache_dir="/asked").cache_path("/told") == Path("/asked")
    assert EngineConfig().cache_path("/told") == Path("/told")
    assert EngineConfig().cache_path(None) == Path(DEFAULT_CACHE).expanduser()


@given(st.dictionaries(st.text(min_size=1, max_size=12), st.integers() | st.text(max_size=8) | st.none(), max_size=3))
def test_nothing_but_a_config_error_ever_comes_out(settings):
    try:
        EngineConfig.from_settings(settings)
    except ConfigError as error:
        assert str(error)
    else:
        assert not settings, "random names cannot all be known"
