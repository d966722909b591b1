"""kill -9 at random moments, again and again: the files end as those of a run that nobody touched."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from orca_jax.batch.paths import Paths
from tests.batch.doubles import EchoAnswerer
from tests.batch.runs import line, records, run_batch

ROOT = Path(__file__).parents[2]
NUM_LINES = 400


@pytest.fixture(scope="module")
def nursery() -> Iterator[subprocess.Popen[str]]:
    """The process that forks the victims."""
    process = subprocess.Popen(
        [sys.executable, "tests/batch/victim.py"], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    yield process
    process.communicate(timeout=60)
    assert process.returncode == 0


def run_and_kill(nursery: subprocess.Popen[str], paths: Paths, order: str, seconds: float) -> bool:
    """Whether the run was killed before it had ended."""
    nursery.stdin.write(f"{paths.source} {paths.output} {order} 0.004\n")
    nursery.stdin.flush()
    pid = int(nursery.stdout.readline())
    time.sleep(seconds)
    with suppress(ProcessLookupError):  # it has ended by itself
        os.kill(pid, signal.SIGKILL)
    status = int(nursery.stdout.readline())
    assert status in (0, -signal.SIGKILL)
    return status != 0


@pytest.mark.parametrize("order", ["input", "completed"])
def test_killed_many_times_every_line_is_there_once(tmp_path, nursery, order):
    rng = random.Random(order)
    lines = [line(f"id{n}", f"prompt {n}") if n % 9 else ["{", line("id1"), ""][n // 9 % 3] for n in range(NUM_LINES)]
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join(lines))
    whole, paths = Paths.named(source, tmp_path / "whole.jsonl"), Paths.named(source, tmp_path / "out.jsonl")
    run_batch(whole, EchoAnswerer())
    kills, longest = 0, 0.1
    while not paths.output.exists():
        kills += run_and_kill(nursery, paths, order, rng.uniform(0, longest))
        longest *= 1.02  # on a machine so slow that no run gets anywhere, one will
    assert kills >= 10
    run_batch(paths, EchoAnswerer())  # the kill may have come between the two renames
    for mine, theirs in ((paths.output, whole.output), (paths.errors, whole.errors)):
        assert sorted(mine.read_bytes().splitlines()) == sorted(theirs.read_bytes().splitlines())
        assert order == "completed" or mine.read_bytes() == theirs.read_bytes()
    ids = [record["custom_id"] for record in records(paths.output)]
    assert len(ids) == len(set(ids)) == sum(n % 9 > 0 for n in range(NUM_LINES))
    assert json.loads(paths.state.read_text())["status"] == "complete"
