"""Settings of the server: each checked by itself and together, from one table."""

import math
import socket
import tomllib

import pytest

from orca_jax.core.errors import ConfigError
from orca_jax.core.resources import configs_dir
from orca_jax.server.config import ServerConfig, split_settings
from orca_jax.server.run import bind


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"port": -1}, "port"), ({"port": 65536}, "port"), ({"port": "80"}, "port"), ({"port": True}, "port"),
        ({"host": ""}, "host"), ({"api_key": "short"}, "api_key"), ({"api_key": "has a space in it"}, "api_key"),
        ({"api_key": "x" * 20, "api_key_file": "key"}, "api_key_file"), ({"max_num_queued_reqs": 0}, "max_num_queued_reqs"),
        ({"request_timeout": 0}, "request_timeout"), ({"request_timeout": math.nan}, "request_timeout"),
        ({"request_timeout": math.inf}, "request_timeout"), ({"shutdown_timeout": -1}, "shutdown_timeout"),
        ({"max_body_bytes": 3}, "max_body_bytes"), ({"metrics_prefix": "a b"}, "metrics_prefix"),
    ],
)  # fmt: skip
def test_bad_settings_are_named(settings, name):
    with pytest.raises(ConfigError, match=name):
        ServerConfig(**settings)


def test_a_key_file(tmp_path):
    file = tmp_path / "key"
    file.write_text("a-long-enough-key  \nsecond line\n")
    assert ServerConfig(api_key_file=str(file)).key == "a-long-enough-key"
    file.write_text("\n")
    with pytest.raises(ConfigError, match="first line"):
        _ = ServerConfig(api_key_file=str(file)).key
    with pytest.raises(ConfigError, match="cannot read api_key_file"):
        _ = ServerConfig(api_key_file=str(tmp_path / "nothing")).key


def test_one_file_for_both_kinds():
    server, engine = split_settings({"port": 9000, "dtype": "float32", "api_key": "0123456789"})
    assert (server.port, engine.dtype) == (9000, "float32")
    with pytest.raises(ConfigError, match="did you mean 'max_num_seqs'"):
        split_settings({"max_num_seq": 3})


def test_the_example_file_is_what_it_says():
    settings = tomllib.loads((configs_dir() / "servers" / "example.toml").read_text())
    server, engine = split_settings(settings)
    assert server.max_num_queued_reqs == settings["max_num_queued_reqs"]
    assert engine.deterministic is False


def test_answers_are_not_delayed_by_the_kernel():
    """Asyncio turns Nagle's delay (40 ms for a small answer) off for sockets that say they are TCP, and only for those."""
    with bind(ServerConfig(port=0)) as listener:
        assert listener.proto == socket.IPPROTO_TCP
