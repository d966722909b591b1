"""Where the time of one iteration goes, operation by operation, as XLA's own profiler saw it.

`bench iteration` takes parts away and measures what is left; this looks inside. Operations are named by the scopes in
the model's code, so that the table reads like the step.
"""

import argparse
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from orca_jax.bench.iteration import CASES, make_executor
from orca_jax.core.config import EngineConfig
from orca_jax.core.errors import EngineError
from orca_jax.execution.programs import use_compilation_cache
from orca_jax.models.load import load_model

INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = .*?[\]})] ([\w\-]+)\(", re.MULTILINE)
OP_NAME = re.compile(r'op_name="([^"]*)"')
CONTAINERS = ("while", "conditional", "call")  # their time is that of what they contain
SCOPES = ("ragged_paged_attention", "write_kv", "sample", "tokens")
UNNAMED = "layer"


@dataclass(frozen=True, slots=True)
class Instruction:
    """An instruction of the compiled program: what it is, and the path of scopes that it came from."""

    kind: str
    path: str

    @property
    def part(self) -> str:
        """The scope that the table shows: attention's own, else a product's place in the model, else the rest of it."""
        for scope in SCOPES:
            if scope in self.path:
                return scope
        if self.kind == "dot" and "dot_general" not in self.path:
            return "ragged_paged_attention"  # XLA drops the names of the batched products within loops
        place = next((name for name in ("mlp", "attention", "head") if f"/{name}/" in self.path), UNNAMED)
        return f"{place}, products" if self.path.endswith("dot_general") else f"{place}, between products"


def instructions(program: str) -> dict[str, Instruction]:
    """Every instruction of a compiled program's text, by name."""
    found = {}
    for line in program.splitlines():
        match = INSTRUCTION.match(line)
        if match is not None:
            path = OP_NAME.search(line)
            found[match[1]] = Instruction(match[2], path[1] if path else "")
    return found


def event_times(folder: Path) -> Iterator[tuple[str, float]]:
    """`(name, milliseconds)` of every event in the traces below `folder`."""
    for path in folder.rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            for line in plane.lines:
                for event in line.events:
                    yield event.name, event.duration_ns / 1e6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="llama-135m", help="a shape of configs/models (random weights)")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--tokens", type=int, default=16, choices=list(CASES))
    parser.add_argument("--rounds", type=int, default=20)


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row for each part of the step, the longest first, then one for the whole iteration."""
    use_compilation_cache(EngineConfig())
    case = CASES[args.tokens]
    executor = make_executor(load_model(args.model, dtype=args.dtype, load_format="dummy"), case)
    known = instructions(executor.steps[case.bucket].as_text())
    plan = case.plan()
    for _ in range(3):
        executor.launch(plan)
        executor.collect()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            began = time.perf_counter()
            for _ in range(args.rounds):
                executor.launch(plan)
                executor.collect()
            whole = 1e3 * (time.perf_counter() - began)
        yield from by_part(event_times(Path(folder)), known, args.rounds)
    yield {"part": "iteration, by the clock", "ms": whole / args.rounds, "operations": 1}


def by_part(events: Iterator[tuple[str, float]], known: dict[str, Instruction], rounds: int) -> list[dict[str, Any]]:
    """Milliseconds and operations of one iteration by part."""
    ms: dict[str, float] = defaultdict(float)
    count: dict[str, int] = defaultdict(int)
    for name, duration in events:
        instruction = known.get(name)
        if instruction is not None and instruction.kind not in CONTAINERS:
            ms[instruction.part] += duration
            count[instruction.part] += 1
    if not ms:
        raise EngineError("the profiler recorded no operation of the step")
    order = sorted(ms, key=ms.__getitem__, reverse=True)
    return [{"part": part, "ms": ms[part] / rounds, "operations": count[part] / rounds} for part in order]


def table(found: list[dict[str, Any]]) -> str:
    """Markdown. The parts may add up to more than the clock says: operations of two threads overlap."""
    total = sum(row["ms"] for row in found[:-1])
    lines = ["| part | ms | share | operations |", "| --- | ---: | ---: | ---: |"]
    lines += [
        f"| {row['part']} | {row['ms']:.2f} | {row['ms'] / total:.0%} | {row['operations']:.0f} |" for row in found
    ]
    return "\n".join(lines)
