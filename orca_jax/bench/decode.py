"""Whole decode steps of a large shape: against the memory's ceiling, and with the host in the loop against without.

Weights are random and made on the device, so a shape needs no checkpoint; nothing but jax, flax, numpy and the
repository's other needs has to be installed.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import jax
import numpy as np

from orca_jax.bench.ceilings import Ceilings, measure_ceilings
from orca_jax.core.plan import Row, Sampling, Seat, StepPlan
from orca_jax.execution.buckets import Bucket
from orca_jax.execution.forward import AttentionOptions
from orca_jax.execution.local import LocalExecutor
from orca_jax.execution.options import ExecutorOptions
from orca_jax.models.load import LoadedModel, count_parameters, load_model, parameter_bytes
from pallas_kernels.ragged_paged_attention import pages_dtype, resolve

LOOP = 256  # steps of the loop with the host in it


def make_executor(loaded: LoadedModel, batch: int, length: int, page_size: int, implementation: str) -> LocalExecutor:
    """An executor with the one bucket of `batch` increments of up to `length` tokens each, warmed up."""
    attention = AttentionOptions(implementation, page_size, layers=loaded.layers)
    options = ExecutorOptions(
        (Bucket(batch, batch),), batch, batch * -(-length // page_size), length, attention,
        pages_dtype(implementation, loaded.dtype),
    )  # fmt: skip
    executor = LocalExecutor(loaded.model, options)
    executor.warm_up()
    return executor


def seats(batch: int, length: int, page_size: int) -> list[Seat]:
    each = -(-length // page_size)
    return [Seat(i, np.arange(i * each, (i + 1) * each, dtype=np.int32), Sampling()) for i in range(batch)]


def plan_of(sitting: list[Seat], position: int, first: bool = False) -> StepPlan:
    """An increment of every sequence, its token still on the device (given where there is none yet)."""
    return StepPlan(tuple(Row(seat, position, 1, (7,) if first else (), samples=True) for seat in sitting))


def host_loop(executor: LocalExecutor, sitting: list[Seat], context: int, steps: int) -> float:
    """Seconds of `steps` iterations as the engine runs them: one in flight while the one before is read."""
    began = time.perf_counter()
    for i in range(steps):
        executor.launch(plan_of(sitting, context + i, first=i == 0))
        if i:
            executor.collect()
    executor.collect()
    return time.perf_counter() - began


def device_loop(executor: LocalExecutor, sitting: list[Seat], context: int, steps: int) -> float:
    """Seconds of as many steps, all dispatched beforehand from packed arrays, waited for once."""
    bucket = executor.options.buckets[0]
    packed = [executor.packer.pack(plan_of(sitting, context + i, first=i == 0), bucket)[0] for i in range(steps)]
    began = time.perf_counter()
    for one in packed:
        output = executor.dispatch(bucket, one)
    jax.block_until_ready(output.packed)
    return time.perf_counter() - began


def bytes_to_read(loaded: LoadedModel, batch: int, tokens: int) -> int:
    """What a step cannot do without: every weight once (of an embedding that is no head, `batch` lines), K/V of `tokens`."""
    c, size = loaded.config, loaded.dtype.itemsize
    looked_up = 0 if c.tie_embeddings else (c.vocab_size - batch) * c.hidden_size * size
    return parameter_bytes(loaded) - looked_up + tokens * 2 * c.num_layers * c.num_kv_heads * c.head_dim * size


def operations(loaded: LoadedModel, batch: int, tokens: int) -> int:
    """Multiplications and additions of a step: the products, and attention over `tokens` in all rows together."""
    c = loaded.config
    weights = count_parameters(loaded.model) - (0 if c.tie_embeddings else c.vocab_size * c.hidden_size)
    return 2 * weights * batch + 4 * c.num_layers * c.num_heads * c.head_dim * tokens


def measure(
    loaded: LoadedModel, batch: int, args: argparse.Namespace, ceilings: Ceilings, implementation: str
) -> dict[str, Any]:
    """Medians over `repeats`, the two loops in turn; the fraction is that of the nearer of the machine's ceilings."""
    steps, context, length = args.steps, args.context, args.context + args.steps + 1
    executor = make_executor(loaded, batch, length, args.page_size, implementation)
    sitting = seats(batch, length, args.page_size)
    executor.packer.new_seats(plan_of(sitting, context))
    host_loop(executor, sitting, context, 2)
    host, device = [], []
    for _ in range(args.repeats):
        device.append(device_loop(executor, sitting, context, steps) / steps)
        host.append(host_loop(executor, sitting, context, steps) / steps)
    tokens = batch * (context + steps // 2)
    must, work = bytes_to_read(loaded, batch, tokens), operations(loaded, batch, tokens)
    step, whole = statistics.median(device), statistics.median(host)
    last = np.asarray(executor.history)[:batch, context + steps]  # the same for every implementation, or nearly
    for array in jax.tree.leaves((executor.cache, executor.history, executor.constraints)):
        array.delete()
    return {
        "batch": batch, "context": context, "attention": implementation, "step_ms": 1e3 * step, "loop_ms": 1e3 * whole,
        "host_share": whole / step - 1, "bytes": must, "flops": work, "fraction": ceilings.fraction(must, work, step),
        "tokens_per_second": batch / whole, "last_tokens": last.tolist(),
        "compiles_after_warm_up": executor.compiles_after_warm_up,
    }  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", default=["llama-3.1-8b", "gpt-13b"], help="shapes of configs/models")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--page-size", type=int, default=32)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=LOOP)
    parser.add_argument("--small", action="store_true", help="ceilings of a small copy: does it run at all?")


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    ceilings = measure_ceilings(2**22, 256, 3) if args.small else measure_ceilings()
    for name in args.models:
        loaded = load_model(name, dtype=args.dtype, load_format="dummy")
        best = resolve(head_dim=loaded.config.head_dim, page_size=args.page_size, dtype=loaded.dtype)
        for batch, implementation in itertools.product(args.batch, dict.fromkeys((best, "xla"))):
            found = measure(loaded, batch, args, ceilings, implementation)
            yield {"model": name, "device": jax.devices()[0].device_kind, **asdict(ceilings), **found}


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: `host` is what the loop with the host in it takes longer than the steps by themselves."""
    lines = [
        f"{found[0]['device']}: copy {found[0]['bytes_per_second'] / 1e9:.0f} GB/s, bfloat16 product "
        f"{found[0]['flops_per_second'] / 1e12:.1f} TFLOP/s",
        "",
        "| model | batch x context | attention | step ms | GB | GFLOP | of the ceiling | host | tokens/s |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in found:
        shape = f"{row['batch']} x {row['context']}"
        work = f"{row['step_ms']:.2f} | {row['bytes'] / 1e9:.2f} | {row['flops'] / 1e9:.0f} | {row['fraction']:.0%}"
        tail = f"{row['host_share']:+.1%} | {row['tokens_per_second']:.0f}"
        lines.append(f"| {row['model']} | {shape} | {row['attention']} | {work} | {tail} |")
    return "\n".join(lines)
