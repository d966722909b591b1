"""A batch file against `LLM.generate` on the same requests and the same engine, in turn: what the file costs.

The batch's time is all of it: the pass that indexes the file, JSON in and out, tokenising, the syncs of the disk.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from orca_jax.batch.job import Job
from orca_jax.batch.paths import Paths
from orca_jax.batch.pipeline import Pipeline
from orca_jax.batch.runner import Runner
from orca_jax.batch.sources import open_source
from orca_jax.bench.workloads import Job as Request
from orca_jax.core.config import EngineConfig
from orca_jax.core.errors import EngineError
from orca_jax.core.sampling_params import SamplingParams
from orca_jax.engine.build import BuiltEngine, build_engine
from orca_jax.engine.thread import EngineThread
from orca_jax.models.presets import preset_names
from orca_jax.offline.llm import LLM

LEAST_TOKEN = 16  # below are special ones, which a text would not hold


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=None, help="folder, or a shape of configs/models (default: the demo model)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--prompt-len", type=int, nargs=2, default=(16, 128), metavar="TOKENS")
    parser.add_argument("--output-len", type=int, nargs=2, default=(16, 96), metavar="TOKENS")
    parser.add_argument("--max-seqs", type=int, default=16, help="most sequences in one iteration")
    parser.add_argument("--repeats", type=int, default=5)


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row for each repeat: seconds of both, whichever was first in turn."""
    shape = args.model in preset_names()
    built = build_engine(
        EngineConfig(
            model=args.model, dtype=args.dtype, max_num_seqs=args.max_seqs, skip_tokenizer_init=shape,
            load_format="dummy" if shape else "auto",
        )
    )  # fmt: skip
    rng = random.Random(1)
    requests = [
        Request(n, [rng.randrange(LEAST_TOKEN, built.door.vocab_size) for _ in range(rng.randint(*args.prompt_len))],
                rng.randint(*args.output_len)) for n in range(args.requests)
    ]  # fmt: skip
    llm = LLM.over(built)
    with tempfile.TemporaryDirectory() as folder, EngineThread(built.engine) as thread:
        paths = Paths.named(_write(Path(folder) / "in.jsonl", requests), Path(folder) / "out.jsonl")
        kinds = {"generate": lambda: generate(llm, requests), "batch": lambda: run_batch(built, thread, paths)}
        for repeat in range(-1, args.repeats):  # the first one warms up
            order = list(kinds) if repeat % 2 else list(reversed(kinds))
            seconds = {name: value for kind in order for name, value in _timed(kind, kinds[kind]).items()}
            if repeat >= 0:
                yield {"model": built.info.model, "requests": len(requests), "repeat": repeat, "first": order[0],
                       "out_tokens": sum(request.output_len for request in requests), **seconds}  # fmt: skip


def generate(llm: LLM, requests: list[Request]) -> None:
    params = [SamplingParams(temperature=0.0, max_tokens=one.output_len, ignore_eos=True) for one in requests]
    outputs = llm.generate([{"prompt_token_ids": one.prompt} for one in requests], params, use_tqdm=False)
    _check([len(output.outputs[0].token_ids) for output in outputs], requests)


def run_batch(built: BuiltEngine, thread: EngineThread, paths: Paths) -> None:
    """The whole of what `orca-jax batch` does once there is an engine. Raises EngineError where a line failed."""
    from orca_jax.batch.engine_answerer import EngineAnswerer  # it needs pydantic, which no other benchmark does

    records, decode = open_source(paths.source, url="/v1/completions", prompt_field="prompt", defaults={})
    with closing(records), Job(paths, {"input": records.digest}, restart=True) as job:
        job.counts.total = len(records)
        answerer = EngineAnswerer(thread, built.door, built.engine.clock, model=built.info.model)
        with closing(Pipeline(records, decode, answerer)) as source:
            Runner(iter(source), answerer, job, counts=job.counts, names=job.names).run()
        job.finish(job.counts)
        if job.counts.failed:
            raise EngineError(f"{job.counts.failed} lines have failed: {paths.errors.read_text()[:300]}")


def table(found: list[dict[str, Any]]) -> str:
    """Markdown; the last column is the ratio of the medians, of which at least 0.97 is wanted."""
    medians = {name: statistics.median(row[name] for row in found) for name in ("generate_s", "batch_s")}
    rates = {name: found[0]["out_tokens"] / seconds for name, seconds in medians.items()}
    lines = ["| requests | LLM.generate tok/s | batch file tok/s | ratio |", "| ---: | ---: | ---: | ---: |"]
    ratio = rates["batch_s"] / rates["generate_s"]
    return "\n".join(
        [*lines, f"| {found[0]['requests']} | {rates['generate_s']:.1f} | {rates['batch_s']:.1f} | {ratio:.3f} |"]
    )


def _write(path: Path, requests: list[Request]) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for one in requests:
            body = {"prompt": one.prompt, "max_tokens": one.output_len, "temperature": 0.0, "ignore_eos": True}
            line = {"custom_id": str(one.id), "method": "POST", "url": "/v1/completions", "body": body}
            file.write(json.dumps(line) + "\n")
    return path


def _timed(name: str, act: Callable[[], None]) -> dict[str, float]:
    """Seconds by the clock and of the processor, all threads together."""
    began, used = time.perf_counter(), time.process_time()
    act()
    return {f"{name}_s": time.perf_counter() - began, f"{name}_cpu_s": time.process_time() - used}


def _check(lengths: list[int], requests: list[Request]) -> None:
    if lengths != [request.output_len for request in requests]:
        raise EngineError(f"output lengths {lengths[:8]}... are not those asked for")
