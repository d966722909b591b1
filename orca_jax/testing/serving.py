"""Serving a workload to its end on a given executor, with everything that must not matter chosen by the caller."""

from collections.abc import Sequence
from dataclasses import dataclass

from orca_jax.core.executor import Executor
from orca_jax.core.outputs import CompletionOutput
from orca_jax.core.request import Request
from orca_jax.engine.engine import Engine
from orca_jax.engine.output import OutputProcessor
from orca_jax.scheduling.kv_manager import KVManager
from orca_jax.scheduling.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class Company:
    """How a workload is served: none of this may change an answer. `budget` and lengths are in tokens."""

    max_batch_size: int = 4
    budget: int | None = 16
    chunked: bool = True
    lookahead: int = 1


def new_engine(executor: Executor, company: Company, *, num_pages: int, page_size: int, num_slots: int) -> Engine:
    """A fresh engine, without tokenizer, around an executor that other engines may have used before."""
    scheduler = Scheduler(
        KVManager(num_pages, page_size, num_slots), company.max_batch_size, max_batch_tokens=company.budget,
        chunked=company.chunked, lookahead=company.lookahead,
    )  # fmt: skip
    return Engine(scheduler, executor, OutputProcessor(None))


def serve(
    engine: Engine, requests: Sequence[Request], arrivals: Sequence[int] = ()
) -> dict[str, list[CompletionOutput]]:
    """Run until every request has ended; request i arrives before step `arrivals[i]` (default 0). Checks every step."""
    waiting = sorted(zip(arrivals or [0] * len(requests), range(len(requests)), strict=True))
    finished: dict[str, list[CompletionOutput]] = {}
    step = 0
    while waiting or engine.has_unfinished:
        while waiting and (waiting[0][0] <= step or not engine.has_unfinished):
            engine.add_request(requests[waiting.pop(0)[1]])
        for output in engine.step():
            if output.finished:
                finished[output.request_id] = output.outputs
        engine.check()
        step += 1
    return finished
