"""The bar of a batch: drawn on a terminal only, and a resumed run's rate is its own."""

import io
import sys

import pytest

from orca_jax.batch.progress import BatchBar
from orca_jax.batch.words import Answered, Counts, Failed


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "shown"), [(Terminal, True), (io.StringIO, False)])
def test_lines_tokens_and_failures_are_shown_on_a_terminal(monkeypatch, stream, shown):
    monkeypatch.setattr(sys, "stderr", stream())
    counts = Counts(total=10, completed=4)  # by an earlier run
    bar = BatchBar(counts)
    counts.add(Answered({}, 3, 500))
    counts.add(Failed("code", "message"))
    bar(counts)
    bar.close()
    text = sys.stderr.getvalue()
    assert ("6/10" in text and "tokens/s, 1 failed" in text) is shown
    assert shown or text == ""
