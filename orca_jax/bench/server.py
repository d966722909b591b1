"""The server against the engine offline, on the same requests, in turn; and what it does when twice too many come.

Server, clients and the offline engine are three processes on one machine, of which one engine at a time works. The clients
take their CPU time from the server, as no client on another machine would: both ratios are reported, the raw one and the
one with the clients' share of the cores taken out of the server's time.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orca_jax.bench.load import Order
from orca_jax.bench.offline import Subject, cpu_seconds
from orca_jax.bench.served import Served, serving
from orca_jax.bench.workloads import Workload, make_workload
from orca_jax.core.config import EngineConfig
from orca_jax.core.errors import EngineError
from orca_jax.core.resources import demo_model_dir

LENGTH = 512  # of a sequence, at most


def write_tokenizer(folder: Path, vocab_size: int) -> Path:
    """The demo model's tokenizer, with a word for each further id, so that a random model's tokens are text, too."""
    data = json.loads((demo_model_dir() / "tokenizer.json").read_text(encoding="utf-8"))
    words = data["model"]["vocab"]
    words |= {f"w{number}": number for number in range(len(words), vocab_size)}
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        (demo_model_dir() / "tokenizer_config.json").read_text(encoding="utf-8")
    )
    return folder


def body_of(prompt: list[int], tokens: int, model: str) -> dict[str, Any]:
    return {
        "model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip


def load(order: Order) -> dict[str, Any]:
    """Put a load on the server, from a process of its own. Raises EngineError where that fails."""
    command = [sys.executable, "-m", "orca_jax.bench.load"]
    done = subprocess.run(command, input=json.dumps(asdict(order)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise EngineError(f"the clients failed: {done.stderr[-500:]}")
    return dict(json.loads(done.stdout))


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rounds of both, then the saturated server, then the one that twice its capacity comes to."""
    table = {
        "seed": 4, "requests": args.clients, "prompt_len": args.prompt, "output_len": args.tokens, "tokens": [300, 4095]
    }  # fmt: skip
    workload = make_workload("server", table, "bench server")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = str(write_tokenizer(Path(folder), args.vocab_size))
        settings = {
            "model": args.model, "dtype": args.dtype, "load_format": "dummy", "tokenizer": tokenizer,
            "max_num_seqs": args.max_seqs, "max_model_len": LENGTH, "max_num_batched_tokens": max(256, args.max_seqs),
        }  # fmt: skip
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        flags += [f"--max-num-queued-reqs={args.queue}", "--served-model-name=bench"]
        subject = Subject(EngineConfig.from_settings(settings))
        with serving(flags) as served:
            bodies = [body_of(job.prompt, job.output_len, "bench") for job in workload.requests]
            yield from in_turn(args, subject, served, workload, bodies)
            subject.built.close()
            saturated = load(Order(served.address, bodies, args.clients, args.seconds, skip=args.seconds / 3))
            yield {"what": "saturated", **throughput(saturated, args.seconds)}
            rate = 2 * saturated["statuses"]["200"] / saturated["wall"]
            over = load(Order(served.address, bodies, 2 * args.clients, args.seconds, rate, args.seconds / 3))
            yield {"what": "twice the capacity", "rate": rate, **throughput(over, args.seconds)}


def in_turn(
    args: argparse.Namespace, subject: Subject, served: Served, workload: Workload, bodies: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    load(Order(served.address, bodies[:4]))
    for number in range(args.rounds):
        before = cpu_seconds()
        _, _, wall = subject.serve(workload)
        yield {"what": "offline", "round": number, "tok_s": workload.tokens_out / wall, "wall": wall,
               "cpu": cpu_seconds() - before}  # fmt: skip
        before = served.cpu_seconds()
        seen = load(Order(served.address, bodies))
        if seen["tokens"] != workload.tokens_out:
            raise EngineError(f"the clients got {seen['tokens']} tokens instead of {workload.tokens_out}")
        yield {"what": "server", "round": number, "tok_s": seen["tokens"] / seen["wall"], "wall": seen["wall"],
               "cpu": served.cpu_seconds() - before, "client_cpu": seen["cpu"], **latencies(seen)}  # fmt: skip


def throughput(seen: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Tokens per second between the skipped third and the end, of requests that were served."""
    tokens = seen["chunks_counted"] * seen["tokens"] / max(seen["chunks"], 1)  # a slow reader's tokens share chunks
    found = {"tok_s": tokens / (seconds * 2 / 3), "statuses": seen["statuses"], "client_cpu": seen["cpu"]}
    return {**found, "wall": seen["wall"], **latencies(seen)}


def latencies(seen: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds: median, 99th percentile, longest."""
    found = {}
    for name in ("first", "refusals", "burst", "health"):
        times = sorted(1e3 * value for value in seen[name])
        if times:
            found[f"{name}_ms"] = [statistics.median(times), times[int(0.99 * (len(times) - 1))], times[-1]]
    return found


def verdicts(found: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """What was asked for, what was found, and the goal."""
    offline, server = ([row for row in found if row["what"] == what] for what in ("offline", "server"))
    cores = os.cpu_count() or 1
    raw, own, cpu = [], [], []
    for one, other in zip(offline, server, strict=True):
        raw.append(other["tok_s"] / one["tok_s"])
        own.append(raw[-1] / (1 - other["client_cpu"] / (cores * other["wall"])))
        cpu.append(other["cpu"] / one["cpu"])
    saturated, over = found[-2], found[-1]
    refused, burst = (over.get(f"{name}_ms", [float("nan")] * 3) for name in ("refusals", "burst"))
    health = [max(row["health_ms"][i] for row in (*server, saturated, over)) for i in range(3)]
    return [
        ("offline tok/s", spread([row["tok_s"] for row in offline], "{:.1f}"), ""),
        ("server tok/s", spread([row["tok_s"] for row in server], "{:.1f}"), ""),
        ("server / offline, raw", spread(raw, "{:.3f}"), ""),
        ("server / offline, without the clients' CPU", spread(own, "{:.3f}"), ">= 0.90"),
        ("CPU seconds of the server / of the offline engine", spread(cpu, "{:.3f}"), ""),
        ("CPU seconds of the clients per second", spread([r["client_cpu"] / r["wall"] for r in server], "{:.3f}"), ""),
        ("saturated tok/s", f"{saturated['tok_s']:.1f}", ""),
        ("tok/s at twice the capacity, of saturated", f"{over['tok_s'] / saturated['tok_s']:.3f}", ">= 0.90"),
        ("answers at twice the capacity, by status", str(over["statuses"]), ""),
        ("refusal, ms (median, p99, longest)", " ".join(f"{ms:.1f}" for ms in refused), "<= 50"),
        ("refusal while all clients come at once, ms", " ".join(f"{ms:.1f}" for ms in burst), ""),
        ("/health, ms (worst run's median, p99, longest)", " ".join(f"{ms:.1f}" for ms in health), "<= 100"),
    ]  # fmt: skip


def spread(values: list[float], form: str) -> str:
    return " ".join(
        [form.format(statistics.median(values)), f"({form.format(min(values))}-{form.format(max(values))})"]
    )


def table(found: list[dict[str, Any]]) -> str:
    lines = ["| what | median (lowest-highest) | goal |", "| --- | ---: | ---: |"]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in verdicts(found))])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="llama-135m", help="a shape of configs/models (random weights)")
    parser.add_argument("--vocab-size", type=int, default=49152, help="that of the shape")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--max-seqs", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=32, help="tokens of each prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each answer")
    parser.add_argument("--queue", type=int, default=64, help="most requests that wait")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=24.0, help="of the saturated run and of the one beyond it")
