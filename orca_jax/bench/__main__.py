"""`python -m orca_jax.bench WHAT`: one entry for every benchmark, and the one place that saves what they found."""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from orca_jax.bench import (
    batch,
    decode,
    iteration,
    kernels,
    offline,
    peers,
    profile,
    report,
    scheduler,
    server,
    startup,
)
from orca_jax.core.errors import OrcaError

ABOUT = {
    "scheduler": "schedule() and update() alone, on the host",
    "iteration": "one iteration against XLA's best products for its shapes, and its parts",
    "profile": "where the time of one iteration goes, operation by operation",
    "offline": "this engine over the workloads",
    "startup": "warm-up and the first token, in fresh processes",
    "peers": "this engine and others in turn",
    "server": "the server with streaming clients against the engine offline, and beyond its capacity",
    "kernels": "attention by itself against the ceilings of an accelerator",
    "decode": "whole decode steps of large shapes on an accelerator",
    "batch": "a batch file against LLM.generate on the same requests",
    "all": "all of these but peers, server, kernels, decode and batch, with their defaults",
}
NOT_IN_ALL = ("all", "peers", "server", "kernels", "decode", "batch")
MODULES: dict[str, ModuleType] = {
    "iteration": iteration, "profile": profile, "offline": offline, "startup": startup, "peers": peers,
    "kernels": kernels, "decode": decode, "batch": batch, "server": server,
}  # fmt: skip


def scheduler_rows() -> Iterator[dict[str, Any]]:
    for num_rows in (16, 64, 256):
        for lookahead in (0, 1):
            yield asdict(scheduler.measure(num_rows, lookahead=lookahead))


def scheduler_table(found: list[dict[str, Any]]) -> str:
    """Markdown: the targets are 0.2 ms at 64 rows and 0.7 ms at 256."""
    lines = ["| rows | waiting | lookahead | median ms | p90 ms |", "| ---: | ---: | ---: | ---: | ---: |"]
    for row in found:
        numbers = f"{row['num_rows']} | {row['num_waiting']} | {row['lookahead']}"
        lines.append(f"| {numbers} | {row['median_ms']:.3f} | {row['p90_ms']:.3f} |")
    return "\n".join(lines)


def offline_table(found: list[dict[str, Any]]) -> str:
    lines = [
        "| workload | dtype | out tok/s | TTFT ms | TPOT ms | ms/iteration | host share | compiles |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in found:
        latency = " | ".join(f"{row[key]:.1f}" if key in row else "-" for key in ("ttft_ms", "tpot_ms"))
        tail = f"{row['ms_per_iteration']:.2f} | {row['host_share']:.1%} | {row['compiles_after_warm_up']}"
        lines.append(f"| {row['workload']} | {row['precision']} | {row['out_tok_s']:.1f} | {latency} | {tail} |")
    return "\n".join(lines)


def run(name: str, args: argparse.Namespace) -> None:
    """Measure, print rows as they come and the table at the end, save if asked."""
    before = report.machine()
    found = []
    for row in scheduler_rows() if name == "scheduler" else MODULES[name].rows(args):
        found.append(row)
        print(json.dumps(row), flush=True)
    tables = {"scheduler": scheduler_table, "offline": offline_table}
    text = tables[name](found) if name in tables else MODULES[name].table(found)
    print(f"\n{text}\n", flush=True)
    if args.save:
        print(f"saved in {report.save(args.name or name, found, text, before, args.results)}")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="measure; prints JSON lines, then a table")
    kinds = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    for name, about in ABOUT.items():
        sub = kinds.add_parser(name, help=about, description=about)
        sub.add_argument("--save", action="store_true", help="keep the rows and the table below --results")
        sub.add_argument("--results", type=Path, default=Path("results"), metavar="DIR")
        sub.add_argument("--name", help="name of the saved files (default: the benchmark's)")
        if name in MODULES:
            MODULES[name].add_arguments(sub)
    return parser


def main() -> int:
    parser = make_parser()
    args = parser.parse_args()
    try:
        for name in ABOUT if args.what == "all" else [args.what]:
            if args.what != "all":
                run(name, args)
            elif name not in NOT_IN_ALL:
                save = ["--save"] if args.save else []
                run(name, parser.parse_args([name, *save, "--results", str(args.results)]))
    except OrcaError as error:
        print(f"scripts/bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
