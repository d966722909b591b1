"""Files that people name on the command line."""

import sys
from pathlib import Path

from orca_jax.cli.terminal import UsageError


def read_text(path: str) -> str:
    """The UTF-8 text of a file, of standard input for `-`. Raises UsageError naming the file."""
    try:
        if path == "-":
            return sys.stdin.read()
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text (byte {error.start})") from error
