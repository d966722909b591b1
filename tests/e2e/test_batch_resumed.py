"""The real command on the demo model, killed with kill -9: sampled answers come out bit for bit as from one piece."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NUM_LINES = 20


def line(number: int) -> str:
    body: dict[str, Any] = {"temperature": 1.0, "max_tokens": 24 + number % 17, "logprobs": 1}
    if number % 3:
        url, body = "/v1/completions", {**body, "prompt": f"def f{number}(", "n": 1 + number % 2}
    else:
        body |= {"messages": [{"role": "user", "content": f"write {number}"}], "logprobs": True, "top_logprobs": 2}
        url = "/v1/chat/completions"
    return json.dumps({"custom_id": f"id{number}", "method": "POST", "url": url, "body": body})


def start(source: Path, output: Path) -> subprocess.Popen[str]:
    argv = ["batch", "-i", source, "-o", output, "--deterministic", "--max-num-seqs", "4", "--max-model-len", "128",
            "--compilation-cache-dir", output.parent / "cache", "--seed", "5", "--max-inflight", "6"]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "orca_jax", *map(str, argv)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> None:
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err


def answers(path: Path) -> list[dict[str, Any]]:
    """The records, without the one field that is a time of day."""
    found = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    for record in found:
        del record["response"]["body"]["created"]
    return found


def test_a_killed_run_gives_what_a_run_in_one_piece_gives(tmp_path):
    source, whole, output = tmp_path / "in.jsonl", tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(map(line, range(NUM_LINES))))
    finish(start(source, whole))
    partial, seen = tmp_path / "out.jsonl.partial", 0
    for _ in range(2):
        process = start(source, output)
        while process.poll() is None and not (partial.exists() and partial.stat().st_size > seen):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL and not output.exists()
        seen = partial.stat().st_size
    finish(start(source, output))
    assert answers(output) == answers(whole) and len(answers(output)) == NUM_LINES
