"""What the commands write: one-line errors, text that cannot drive a terminal, colour only where somebody looks."""

import io
import os
import shutil
import sys
from typing import TextIO

from orca_jax.core.errors import OrcaError
from orca_jax.observe.labels import printable

DIM, BOLD, RESET = "\x1b[2m", "\x1b[1m", "\x1b[0m"


class UsageError(OrcaError):
    """The command line itself is wrong."""


def on_terminal(stream: TextIO) -> bool:
    return stream.isatty()


def colours(stream: TextIO) -> bool:
    """Whether to colour: a terminal, and nobody has asked for none (https://no-color.org)."""
    return on_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, style: str, stream: TextIO) -> str:
    return f"{style}{text}{RESET}" if colours(stream) else text


def width() -> int:
    return shutil.get_terminal_size((100, 24)).columns


def speaks_unicode(stream: TextIO) -> bool:
    """Whether the stream can write block characters."""
    try:
        "█▓─·▁…".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def write(text: str, style: str = "") -> None:
    """Write model or user text to standard output at once; on a terminal with its control characters made visible."""
    shown = printable(text) if on_terminal(sys.stdout) else text
    sys.stdout.write(styled(shown, style, sys.stdout) if style else shown)
    sys.stdout.flush()


def say(line: str) -> None:
    """One line for the person at the terminal, beside the output proper."""
    print(line, file=sys.stderr, flush=True)


def never_fail_on_encoding() -> None:
    """A character that the terminal's encoding lacks shall not end a run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def forget_stdout() -> None:
    """After a broken pipe: keep the interpreter from failing again when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
