"""This engine over the workloads, offline: tokens per second, latencies, and where the host's time goes.

One JSON line for each run, in the form that drivers of other engines print, so that `bench peers` can run it in turn with
them: `python -m orca_jax.bench.offline --model FOLDER --dtype bfloat16 --workload w2_decode`.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax

from orca_jax.bench.stopwatch import Spent, TimedExecutor
from orca_jax.bench.workloads import Job, Workload, find_workloads, load_workloads
from orca_jax.core.config import EngineConfig
from orca_jax.core.errors import EngineError
from orca_jax.core.outputs import RequestOutput
from orca_jax.core.sampling_params import RequestOutputKind, SamplingParams
from orca_jax.engine.build import BuiltEngine, build_engine
from orca_jax.engine.engine import Engine
from orca_jax.execution.local import LocalExecutor
from orca_jax.models.presets import preset_names
from orca_jax.version import __version__

# A small mixture that ends raggedly: what other engines compile or allocate late, they do before the clock starts.
WARM_UP = Workload("warm-up", 0, [Job(i, [300 + 7 * i + j for j in range(24 + 8 * i)], 4 + i) for i in range(8)])


class Subject:
    """An engine that is measured: a built one, with a stopwatch between the loop and the executor."""

    def __init__(self, config: EngineConfig):
        began = time.perf_counter()
        self.built: BuiltEngine = build_engine(config)
        self.load_s = time.perf_counter() - began
        inner = self.built.engine.executor
        if not isinstance(inner, LocalExecutor):
            raise EngineError(f"only the local executor can be timed, and this engine has a {type(inner).__name__}")
        self.executor = TimedExecutor(inner)
        self.engine = Engine(self.built.engine.scheduler, self.executor, self.built.engine.output)
        self.arrived = 0

    def serve(self, workload: Workload) -> tuple[list[RequestOutput], float, float]:
        """The outputs in order, when the requests were handed over, and the seconds until the last token was back."""
        self.executor.spent = Spent()
        began = time.perf_counter()
        for job in workload.requests:
            params = SamplingParams(
                temperature=0.0, max_tokens=job.output_len, ignore_eos=True, output_kind=RequestOutputKind.FINAL_ONLY
            )
            request = self.built.door.make(
                job.prompt, params, request_id=str(self.arrived), arrival=self.arrived, arrival_time=began
            )
            self.arrived += 1
            self.engine.add_request(request)
        ended = []
        while self.engine.has_unfinished:
            ended += [output for output in self.engine.step() if output.finished]
        wall = time.perf_counter() - began
        return sorted(ended, key=lambda output: int(output.request_id)), began, wall

    def buckets_run(self) -> dict[str, int]:
        """Iterations of each bucket so far, by `tokens x rows`."""
        return {f"{b.tokens}x{b.rows}": n for b, n in self.executor.inner.iterations.items()}


def measure(subject: Subject, workload: Workload) -> dict[str, Any]:
    """Serve one workload. Raises EngineError where an answer has not the length that was asked for."""
    before, cpu = subject.buckets_run(), cpu_seconds()
    outputs, began, wall = subject.serve(workload)
    cpu = cpu_seconds() - cpu
    wanted = [job.output_len for job in workload.requests]
    got = [len(output.outputs[0].token_ids) for output in outputs]
    if got != wanted:
        raise EngineError(
            f"workload {workload.name}: output lengths {got[:8]}... are not the {wanted[:8]}... asked for"
        )
    row: dict[str, Any] = {"workload": workload.name}
    if len(outputs) == 1:
        metrics = outputs[0].metrics
        first = began if metrics is None or metrics.first_token_time is None else metrics.first_token_time
        row |= {"ttft_ms": 1e3 * (first - began), "tpot_ms": 1e3 * (began + wall - first) / max(got[0] - 1, 1)}
    row |= {
        "wall_s": wall, "cpu_s": cpu, "in_tokens": workload.tokens_in, "out_tokens": workload.tokens_out,
        "out_tok_s": workload.tokens_out / wall, "total_tok_s": (workload.tokens_in + workload.tokens_out) / wall,
        "head": [output.outputs[0].token_ids[:8] for output in outputs[:2]],
    }  # fmt: skip
    buckets = {name: count - before[name] for name, count in subject.buckets_run().items() if count > before[name]}
    compiles = subject.executor.statistics()["compiles_after_warm_up"]
    return row | host_share(subject.executor.spent, wall) | {"buckets": buckets, "compiles_after_warm_up": compiles}


def host_share(spent: Spent, wall: float) -> dict[str, Any]:
    """The host's share of the wall clock: everything but waiting for the device. Part of it overlaps with the device."""
    parts = {"launch": spent.launch, "read": spent.read, "loop": wall - spent.wait - spent.launch - spent.read}
    return {
        "iterations": spent.iterations,
        "ms_per_iteration": 1e3 * wall / max(spent.iterations, 1),
        "host_share": 1 - spent.wait / wall,
        "host_ms_per_iteration": {name: 1e3 * seconds / max(spent.iterations, 1) for name, seconds in parts.items()},
    }


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="llama-135m", help="folder, or a shape of configs/models (random weights)")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--workload", nargs="+", default=list(load_workloads()), help="names, or JSON files")
    parser.add_argument("--max-seqs", type=int, default=16, help="most sequences in one iteration")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--lookahead", type=int, default=1, choices=(0, 1))


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row for each workload and repeat, as soon as it is there."""
    known = {workload.name: workload for workload in find_workloads(args.workload)}
    shape = args.model in preset_names()
    subject = Subject(
        EngineConfig(
            model=args.model, dtype=args.dtype, max_num_seqs=args.max_seqs, lookahead=args.lookahead,
            skip_tokenizer_init=True, load_format="dummy" if shape else "auto",
        )
    )  # fmt: skip
    info = subject.built.info
    fixed = {
        "engine": "orca-jax", "version": f"{__version__}/jax {jax.__version__}", "precision": args.dtype,
        "model": info.model, "max_seqs": args.max_seqs, "load_s": subject.load_s,
        "settings": {"max_num_batched_tokens": info.max_num_batched_tokens, "lookahead": info.lookahead,
                     "attention": info.attention, "block_size": info.page_size},
    }  # fmt: skip
    subject.serve(WARM_UP)
    for repeat in range(args.repeats):
        for workload in known.values():
            yield {**fixed, "repeat": repeat, **measure(subject, workload)}
    subject.built.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="this engine over the workloads, one JSON line for each run")
    add_arguments(parser)
    try:
        for row in rows(parser.parse_args()):
            print(json.dumps(row), flush=True)
    except EngineError as error:
        print(json.dumps({"engine": "orca-jax", "error": str(error)}), flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
