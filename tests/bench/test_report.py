"""A saved measurement says where and how it was taken."""

import json
import sys
from pathlib import Path

import pytest

from orca_jax.bench import __main__ as bench
from orca_jax.bench import report, startup


def test_rows_and_table_are_saved_with_the_machine(tmp_path: Path):
    facts = {**report.machine(), "time": "2026-01-02 03:04:05", "cpu": "Some CPU 9 (family 1, model 2)", "cores": 2}
    folder = report.save("offline", [{"a": 1}], "| a |", facts, tmp_path)
    assert folder == tmp_path / "2026-01-02-some-cpu-9-2-cores"
    assert json.loads((folder / "offline.json").read_text())["rows"] == [{"a": 1}]
    text = (folder / "offline.md").read_text()
    assert "| a |" in text and "load average" in text and f"jax {facts['versions']['jax']}" in text


def test_a_wrong_place_is_one_line_and_an_exit_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(sys, "argv", ["bench", "peers"])
    assert bench.main() == 1
    assert "needs a place called 'root' (--where root=DIR)" in capsys.readouterr().err


def test_start_up_is_a_table_of_medians():
    runs = [{"first_token_s": seconds} for seconds in (3.0, 1.0, 2.0)]
    assert "| generate, cached | first_token_s | 2.00 | 1.00-3.00 |" in startup.table(
        [{"start": "generate, cached", "runs": runs}]
    )
