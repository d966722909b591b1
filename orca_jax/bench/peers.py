"""This engine and others over the same workloads, in turn: one process for each engine and round.

Single runs on a shared machine differ by a quarter, so only what ran interleaved is compared. Nothing about the other
engines is known here: labels and commands come from a file (see configs/bench/peers.toml), places from the command line.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orca_jax.bench.workloads import find_workloads, load_workloads
from orca_jax.core.errors import ConfigError
from orca_jax.core.resources import configs_dir


def load_commands(path: Path, where: dict[str, str]) -> dict[str, list[str]]:
    """The command of each engine, its braces filled from `where`. Raises ConfigError for a place that is not given."""
    try:
        lines = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    commands = {}
    for label, line in lines.items():
        try:
            commands[label] = [word.format(**where) for word in shlex.split(line)]
        except KeyError as error:
            raise ConfigError(f"{path}: {label} needs a place called {error} (--where {error.args[0]}=DIR)") from error
    return commands


def run_driver(command: list[str], files: list[Path], max_seqs: int, timeout: float) -> list[dict[str, Any]]:
    """What a driver printed, a row for each workload; a last row with "error" where it failed."""
    whole = [*command, "--max-seqs", str(max_seqs), "--workload", *map(str, files)]
    try:
        done = subprocess.run(whole, capture_output=True, text=True, timeout=timeout)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [{"error": str(error)[:300]}]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not rows:
        rows.append({"error": f"exit status {done.returncode}: {done.stderr[-400:]}"})
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--commands", type=Path, default=configs_dir() / "bench" / "peers.toml")
    parser.add_argument(
        "--where", action="append", default=[], metavar="NAME=DIR", help="what {NAME} means in commands"
    )
    parser.add_argument("--only", nargs="+", metavar="LABEL", help="these engines instead of all")
    parser.add_argument("--workload", nargs="+", default=list(load_workloads()))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-seqs", type=int, default=16)
    parser.add_argument("--timeout", type=float, default=600, help="seconds that one engine may take in one round")


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every run, labelled, as soon as it is there."""
    where = {"python": sys.executable, **dict(place.split("=", 1) for place in args.where)}
    commands = load_commands(args.commands, where)
    unknown = set(args.only or ()) - set(commands)
    if unknown:
        raise ConfigError(f"{args.commands} has no engine {min(unknown)!r}, only {', '.join(commands)}")
    with tempfile.TemporaryDirectory() as folder:
        files = [workload.write(Path(folder)) for workload in find_workloads(args.workload)]
        for round_number in range(args.rounds):
            for label in args.only or commands:
                began, load = time.perf_counter(), os.getloadavg()[0]
                found = run_driver(commands[label], files, args.max_seqs, args.timeout)
                print(f"round {round_number} {label}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
                for row in found:
                    yield {**row, "label": label, "round": round_number, "load_before": load}


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: medians over the rounds, lowest and highest in brackets; failures below."""
    cells: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in found:
        for kind in ("out_tok_s", "ttft_ms", "tpot_ms"):
            if kind in row and not (kind == "out_tok_s" and "ttft_ms" in row):
                cells[row["label"]][f"{row['workload']} {kind}"].append(row[kind])
    columns = list(dict.fromkeys(name for values in cells.values() for name in values))
    lines = ["| engine | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for label, values in cells.items():
        lines.append(f"| {label} | " + " | ".join(spread(values[column]) for column in columns) + " |")
    errors = [f"- {row['label']}, round {row['round']}: {row['error']}" for row in found if "error" in row]
    return "\n".join([*lines, *(["", *errors] if errors else [])])


def spread(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"
