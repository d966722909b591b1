"""JSON files from strangers: bounded in size and depth, unambiguous, and blamed by name when they are not."""

import json
from pathlib import Path

from orca_jax.core.errors import CheckpointError

MAX_BYTES = 4 * 2**20


def read_json(path: Path, limit: int = MAX_BYTES) -> dict[str, object]:
    """The object in a UTF-8 JSON file of at most `limit` bytes. Raises CheckpointError naming the file."""
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > limit:
        raise CheckpointError(f"{path} is larger than {limit} bytes, which no file of its kind is")
    return parse_object(data, str(path))


def parse_object(data: bytes, source: str) -> dict[str, object]:
    """The JSON object in `data`: no duplicate keys, no NaN or Infinity. Raises CheckpointError naming `source`."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{source} is not UTF-8 (byte {error.start})") from error
    except RecursionError as error:
        raise CheckpointError(f"{source} is nested too deeply") from error
    except ValueError as error:
        raise CheckpointError(f"{source} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{source} holds a {type(value).__name__}, but a JSON object is needed")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice[:80]!r} occurs twice")
    return result


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
