"""The ledger counts what the clients saw: the oracle is the outputs themselves, timed as they came."""

import random

import pytest

from orca_jax.core.clock import ManualClock
from orca_jax.core.events import IterationDone, IterationLaunched, RequestArrived, RowRecord, SequenceFinished
from orca_jax.core.plan import StepResult
from orca_jax.core.sampling_params import RequestOutputKind
from orca_jax.core.sequence import Phase
from orca_jax.engine.engine import Engine
from orca_jax.engine.output import OutputProcessor
from orca_jax.observe.ledger import Ledger
from orca_jax.scheduling.kv_manager import KVManager
from orca_jax.scheduling.scheduler import Scheduler
from orca_jax.testing.fake_executor import FakeExecutor, FakeModel
from orca_jax.testing.requests import make_request


class Timed(FakeExecutor):
    """Each collect takes `seconds` on the clock, in shapes of 16 tokens and 8 rows."""

    def __init__(self, clock: ManualClock, *args: int):
        super().__init__(FakeModel(eos_every=12), *args)
        self.clock = clock
        self.seconds = random.Random(5)

    def collect(self) -> StepResult:
        self.clock.advance(self.seconds.uniform(0.001, 0.1))
        result = super().collect()
        return StepResult(result.tokens, result.logprobs, result.prompt_logprobs, (16, 8))


def run(lookahead: int, ledger: Ledger, events: list, seed: int = 3):
    """Requests that come, go and are aborted at random. Returns first-token times, gaps, ends and prompt lengths."""
    draw = random.Random(seed)
    clock = ManualClock(10.0)
    scheduler = Scheduler(KVManager(60, 4, 8), 4, max_batch_tokens=12, chunked=True, lookahead=lookahead)
    engine = Engine(
        scheduler, Timed(clock, 60, 4, 8), OutputProcessor(None), clock=clock, observers=[ledger, events.append]
    )
    firsts, gaps, ended, last, arrived = [], [], 0, {}, {}
    for step in range(300):
        if step < 200 and draw.random() < 0.3:
            name = f"r{step}"
            arrived[name] = clock.now()
            engine.add_request(
                make_request(draw.randint(1, 20), draw.randint(1, 12), request_id=name, arrival=step,
                             arrival_time=clock.now(), n=draw.choice((1, 2)), output_kind=RequestOutputKind.DELTA)
            )  # fmt: skip
        clock.advance(draw.uniform(0.0, 0.01))
        for output in engine.step() if engine.has_unfinished else []:
            for answer in output.outputs:
                key = (output.request_id, answer.index)
                assert len(answer.token_ids) <= 1
                if answer.token_ids and key in last:
                    gaps.append(clock.now() - last[key])
                elif answer.token_ids:
                    firsts.append(clock.now() - arrived[output.request_id])
                if answer.token_ids:
                    last[key] = clock.now()
                ended += answer.finish_reason is not None
        if draw.random() < 0.05 and ledger.lives:
            engine.abort(draw.choice(sorted(ledger.lives))[0])
    assert not engine.has_unfinished
    return firsts, gaps, ended


@pytest.mark.parametrize("lookahead", [0, 1])
def test_it_counts_what_the_clients_saw(lookahead):
    ledger, events = Ledger(), []
    firsts, gaps, ended = run(lookahead, ledger, events)
    reading = ledger.read()
    ttft, itl = (reading.histograms[n] for n in ("time_to_first_token_seconds", "inter_token_latency_seconds"))
    assert (ttft.number, itl.number) == (len(firsts), len(gaps)) and len(gaps) > 200
    assert ttft.total == pytest.approx(sum(firsts)) and itl.total == pytest.approx(sum(gaps))
    ends = [event for event in events if isinstance(event, SequenceFinished)]
    assert sum(reading.finished.values()) == len(ends) and reading.finished["abort"] > 0 < reading.finished["stop"]
    assert reading.counters["generation_tokens"] == sum(event.num_output_tokens for event in ends)
    assert reading.histograms["request_generation_tokens"].total == sum(event.num_output_tokens for event in ends)
    launched = [event for event in events if isinstance(event, IterationLaunched)]
    tokens = sum(row.count for event in launched for row in event.rows)
    prompts = sum(row.count for event in launched for row in event.rows if row.phase is not Phase.INCREMENT)
    assert reading.histograms["iteration_tokens_total"].total == tokens
    assert reading.counters["prompt_tokens"] == prompts
    assert reading.counters["padding_tokens"] == 16 * len(launched) - tokens
    arrivals = [event for event in events if isinstance(event, RequestArrived)]
    assert reading.histograms["request_params_n"].total == sum(event.n for event in arrivals)
    assert reading.histograms["request_prompt_tokens"].number == len(arrivals)


@pytest.mark.parametrize("lookahead", [0, 1])
def test_when_nothing_runs_nothing_is_held(lookahead):
    ledger = Ledger()
    run(lookahead, ledger, [])
    reading = ledger.read()
    assert (reading.running, reading.waiting, reading.pages_reserved, reading.pages_used) == (0, 0, 0, 0)
    assert not ledger.lives and not ledger._asked and not ledger._launched
    assert reading.num_pages == 60


def row(name: str, start: int = 0, count: int = 4, phase: Phase = Phase.INITIATION) -> RowRecord:
    return RowRecord(name, 0, phase, start, count)


def iteration(ledger: Ledger, number: int, launched: float, done: float, *rows: RowRecord) -> None:
    ledger(IterationLaunched(number, launched, rows, (), 5, 3, 10))
    ledger(IterationDone(number, done, 1, 1, waited=0.25, num_compiled=number, pages_reserved=4))


def test_gaps_without_anything_in_flight_are_the_hosts_only_while_there_is_work():
    ledger = Ledger()
    ledger(RequestArrived("a", 0.0, 4, 3, 1))
    iteration(ledger, 0, 1.0, 2.0, row("a"))
    iteration(ledger, 1, 2.5, 3.0, row("a", 4, 1, Phase.INCREMENT))
    ledger(SequenceFinished("a", 0, 3.0, "length", 2))
    ledger(RequestArrived("b", 50.0, 4, 3, 1))
    iteration(ledger, 2, 51.0, 52.0, row("b"))
    counters = ledger.read().counters
    assert counters["host_gap_seconds"] == pytest.approx(0.5)
    assert counters["host_wait_seconds"] == pytest.approx(0.75)
    assert counters["compiles_after_warmup"] == 3
    assert ledger.read().histograms["iteration_time_seconds"].total == pytest.approx(1.0 + 0.5 + 1.0)


def test_with_another_iteration_in_flight_the_device_did_not_wait():
    ledger = Ledger()
    ledger(RequestArrived("a", 0.0, 4, 9, 1))
    ledger(IterationLaunched(0, 1.0, (row("a"),), (), 5, 3, 10))
    ledger(IterationLaunched(1, 1.1, (row("a", 4, 1, Phase.INCREMENT),), (), 5, 3, 10))
    ledger(IterationDone(0, 2.0, 1, 1))
    ledger(IterationLaunched(2, 2.4, (row("a", 5, 1, Phase.INCREMENT),), (), 5, 3, 10))
    assert ledger.read().counters["host_gap_seconds"] == 0.0


def test_pages_that_come_back_are_seen_before_the_next_launch():
    ledger = Ledger()
    ledger(RequestArrived("a", 0.0, 4, 1, 1))
    ledger(IterationLaunched(0, 1.0, (row("a"),), (), 5, 3, 10))
    assert (ledger.read().pages_reserved, ledger.read().pages_used) == (5, 3)
    ledger(SequenceFinished("a", 0, 2.0, "length", 1, pages_reserved=0))
    assert (ledger.read().pages_reserved, ledger.read().pages_used) == (0, 0)


def test_what_was_there_before_it_listened_is_left_out():
    ledger = Ledger()
    ledger(IterationDone(7, 1.0, 1, 1))
    ledger(SequenceFinished("old", 0, 1.0, "stop", 5))
    ledger(IterationLaunched(8, 1.0, (row("old"),), (), 1, 1, 10))
    ledger(IterationDone(8, 2.0, 1, 1))
    reading = ledger.read()
    assert sum(reading.finished.values()) == 0 and reading.counters["iterations"] == 1
    assert reading.histograms["time_to_first_token_seconds"].number == 0


def test_its_memory_is_bounded():
    ledger = Ledger(most_columns=4, most_ended=3)
    for number in range(10):
        ledger(RequestArrived(str(number), 0.0, 4, 1, 1))
        iteration(ledger, number, number, number + 0.5, row(str(number)))
        ledger(SequenceFinished(str(number), 0, number + 0.5, "length", 1))
    assert len(ledger.columns) == 4 and [key[0] for key in ledger.ended] == ["7", "8", "9"]
