"""What the host spends on scheduling alone: `schedule()` and `update()` without a device.

A schedule that is quadratic, or walks all that wait, costs more than the step it plans, and nothing else shows it.
"""

import statistics
import time
from collections import deque
from dataclasses import dataclass

from orca_jax.core.plan import StepResult
from orca_jax.core.request import Request
from orca_jax.core.sampling_params import SamplingParams
from orca_jax.scheduling.kv_manager import KVManager
from orca_jax.scheduling.scheduler import Batch, Scheduler

PROMPT_LEN, PAGE_SIZE = 96, 16


@dataclass(frozen=True, slots=True)
class SchedulerCost:
    """Milliseconds of one `schedule()` and `update()` with `num_rows` rows while `num_waiting` requests wait."""

    num_rows: int
    num_waiting: int
    lookahead: int
    median_ms: float
    p90_ms: float


def measure(num_rows: int, num_waiting: int = 10_000, lookahead: int = 1, iterations: int = 400) -> SchedulerCost:
    """Run `iterations` full batches; requests of 40 to 103 output tokens end and others take their place meanwhile."""
    scheduler = _loaded_scheduler(num_rows, num_waiting + iterations * num_rows // 40, lookahead)
    in_flight: deque[Batch] = deque()
    result = StepResult(tokens=(1,) * num_rows)
    milliseconds = []
    for _ in range(iterations):
        begin = time.perf_counter()
        in_flight.append(scheduler.schedule())
        if len(in_flight) > lookahead:
            scheduler.update(in_flight.popleft(), result)
        milliseconds.append(1000 * (time.perf_counter() - begin))
    deciles = statistics.quantiles(milliseconds, n=10)
    return SchedulerCost(num_rows, num_waiting, lookahead, statistics.median(milliseconds), deciles[8])


def report() -> str:
    """A table of the costs at 16, 64 and 256 rows, with and without the look ahead."""
    lines = ["rows  waiting  lookahead  median ms  p90 ms"]
    for num_rows in (16, 64, 256):
        for lookahead in (0, 1):
            c = measure(num_rows, lookahead=lookahead)
            lines.append(f"{c.num_rows:4}  {c.num_waiting:7}  {c.lookahead:9}  {c.median_ms:9.3f}  {c.p90_ms:6.3f}")
    return "\n".join(lines)


def _loaded_scheduler(num_rows: int, num_requests: int, lookahead: int) -> Scheduler:
    pages_each = -(-(PROMPT_LEN + 103) // PAGE_SIZE)
    slots = num_rows * (1 + lookahead)
    scheduler = Scheduler(KVManager(slots * pages_each, PAGE_SIZE, slots), num_rows, lookahead=lookahead)
    prompt = tuple(range(PROMPT_LEN))
    for arrival in range(num_requests):
        params = SamplingParams(max_tokens=40 + arrival * 7 % 64, temperature=0.0, ignore_eos=True)
        scheduler.add(Request(str(arrival), prompt, params, arrival, 0.0, stop_ids=(0,), eos_ids=(0,)))
    return scheduler


if __name__ == "__main__":
    print(report())
