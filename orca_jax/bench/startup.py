"""What a user waits for: the warm-up, cold and from the cache, and the first token of `orca-jax generate`.

Everything runs in processes of its own, because imports and JAX's caches count.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orca_jax.core.errors import EngineError

PROMPT = "def fibonacci(n):"


def build_once(model: str | None, cache: str) -> dict[str, float]:
    """Seconds to import, load and warm up an engine in this process; `cache` is the folder of compiled programs."""
    began = time.perf_counter()
    from orca_jax.core.config import EngineConfig  # here, because importing is part of what is measured
    from orca_jax.engine.build import build_engine

    imported = loaded = time.perf_counter()

    def progress(stage: str, done: int, total: int, what: str) -> None:
        nonlocal loaded
        if stage == "load":
            loaded = time.perf_counter()

    built = build_engine(EngineConfig(model=model, compilation_cache_dir=cache), progress=progress)
    ready = time.perf_counter()
    built.close()
    return {"import_s": imported - began, "load_s": loaded - imported, "warm_up_s": ready - loaded}


def build_apart(model: str | None, cache: str) -> dict[str, float]:
    """`build_once` in a process of its own."""
    command = [sys.executable, "-m", "orca_jax.bench.startup", "--cache", cache, *(["--model", model] if model else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise EngineError(f"starting the engine failed: {done.stderr[-400:]}")
    return json.loads(done.stdout.splitlines()[-1])


def first_token(model: str | None, cache: str) -> float:
    """Seconds from the start of an `orca-jax generate` process to the first byte of its answer."""
    command = [
        sys.executable, "-m", "orca_jax", "generate", PROMPT, "--no-echo", "--temperature", "0", "--max-tokens", "16",
        "--compilation-cache-dir", cache, *(["--model", model] if model else []),
    ]  # fmt: skip
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        if process.stdout is None or process.stderr is None:
            raise EngineError("the process of orca-jax generate has no output to read")
        first = process.stdout.read(1)
        seconds = time.perf_counter() - began
        _, errors = process.communicate()
    if process.returncode or not first:
        raise EngineError(f"orca-jax generate failed: {errors.decode(errors='replace')[-400:]}")
    return seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="folder of a checkpoint (default: the bundled demo model)")
    parser.add_argument("--runs", type=int, default=3, help="processes for each number")


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row for each kind of start, with the seconds of every run."""
    with tempfile.TemporaryDirectory() as folder:
        caches = [str(Path(folder, f"cache{i}")) for i in range(args.runs)]
        cold = [build_apart(args.model, cache) for cache in caches]
        yield {"start": "cold", "runs": cold}
        yield {"start": "cached", "runs": [build_apart(args.model, cache) for cache in caches]}
        yield {"start": "generate, cached", "runs": [{"first_token_s": first_token(args.model, c)} for c in caches]}


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: the targets are 25 s cold, 4 s from the cache, 6 s to the first token."""
    lines = ["| start | what | median s | lowest-highest |", "| --- | --- | ---: | ---: |"]
    for row in found:
        for name in row["runs"][0]:
            values = [run[name] for run in row["runs"]]
            spread = f"{min(values):.2f}-{max(values):.2f}"
            lines.append(f"| {row['start']} | {name} | {statistics.median(values):.2f} | {spread} |")
    return "\n".join(lines)


def main() -> None:
    """The process that `build_apart` starts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", required=True)
    parser.add_argument("--model")
    args = parser.parse_args()
    print(json.dumps(build_once(args.model, args.cache)))


if __name__ == "__main__":
    main()
