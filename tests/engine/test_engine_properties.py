"""What holds for any arrivals, aborts and steps, at any depth, look ahead, budget and page size."""

from collections import Counter, deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from orca_jax.core.errors import RequestError
from orca_jax.core.events import IterationDone, IterationLaunched, SequenceFinished
from orca_jax.engine.engine import Engine
from orca_jax.engine.output import OutputProcessor
from orca_jax.scheduling.kv_manager import KVManager
from orca_jax.scheduling.scheduler import Scheduler
from orca_jax.testing.fake_executor import FakeExecutor, FakeModel
from orca_jax.testing.requests import make_request

MOST_STEPS = 2000


class EngineUnderWork(RuleBasedStateMachine):
    """Requests come, go and are aborted at random; the fake executor's answers tell of every mix-up."""

    @initialize(
        depth=st.integers(1, 3),
        lookahead=st.integers(0, 1),
        max_batch_size=st.integers(1, 4),
        page_size=st.integers(1, 4),
        num_pages=st.integers(6, 24),
        budget=st.sampled_from([(None, False), (12, False), (1, True), (3, True), (9, True)]),
        eos_every=st.sampled_from([None, 2, 5]),
    )
    def build(self, depth, lookahead, max_batch_size, page_size, num_pages, budget, eos_every):
        self.budget, self.chunked = budget
        self.model = FakeModel(vocab_size=40, eos_every=eos_every)
        kv = KVManager(num_pages, page_size, max_batch_size * (depth + lookahead))
        self.scheduler = Scheduler(
            kv, max_batch_size, max_batch_tokens=self.budget, chunked=self.chunked, lookahead=lookahead
        )
        executor = FakeExecutor(self.model, num_pages, page_size, kv.num_slots, depth)
        self.engine = Engine(self.scheduler, executor, OutputProcessor(None), observers=[self.watch])
        self.requests, self.aborted, self.outputs = {}, set(), {}
        self.in_flight, self.ended, self.iterations = deque(), Counter(), Counter()

    @rule(
        prompt=st.lists(st.integers(1, 39), min_size=1, max_size=14),
        max_tokens=st.integers(1, 9),
        n=st.sampled_from([1, 1, 1, 2, 3]),
        end=st.sampled_from([{}, {"ignore_eos": True}, {"min_tokens": 3}, {"stop_token_ids": (3, 4, 5, 6)}]),
    )
    def arrive(self, prompt, max_tokens, n, end):
        end = {name: min(value, max_tokens) if name == "min_tokens" else value for name, value in end.items()}
        request = make_request(prompt, max_tokens, arrival=len(self.requests), n=n, **end)
        kv = self.scheduler.kv
        too_long = self.budget is not None and not self.chunked and len(prompt) > self.budget
        if too_long or kv.pages_for(len(prompt) + max_tokens) > kv.num_pages:
            with pytest.raises(RequestError):
                self.engine.add_request(request)
            return
        self.engine.add_request(request)
        self.requests[request.request_id] = request

    @rule(times=st.integers(1, 4))
    def step(self, times):
        for _ in range(times):
            self.step_once()

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def abort(self, data):
        request_id = data.draw(st.sampled_from(sorted(self.live())))
        self.engine.abort(request_id)
        self.aborted.add(request_id)

    @invariant()
    def memory_adds_up(self):
        self.engine.check()
        kv = self.scheduler.kv
        seated = [sequence for sequence in self.scheduler.pool.by_arrival() if sequence.seat is not None]
        assert kv.pages_reserved == sum(kv.pages_for(sequence.max_len) for sequence in seated) <= kv.num_pages
        assert all(sequence.num_launched < sequence.max_len for sequence in seated), "the last token was fed back"
        assert self.engine.failure is None

    def teardown(self):
        for _ in range(MOST_STEPS):
            if not self.engine.has_unfinished:
                break
            self.step_once()
            self.memory_adds_up()
        assert not self.engine.has_unfinished, "some request never ends"
        assert self.scheduler.kv.pages_reserved == 0 == self.scheduler.kv.num_seated and not self.in_flight
        assert self.outputs.keys() == self.requests.keys()
        keys = [(name, index) for name, request in self.requests.items() for index in range(request.params.n)]
        assert self.ended == Counter(keys)
        for name, index in keys:
            self.compare(name, index)

    def live(self):
        return self.requests.keys() - self.outputs.keys() - self.aborted

    def step_once(self):
        for output in self.engine.step():
            assert output.request_id not in self.outputs, "an output after the last"
            if output.finished:
                self.outputs[output.request_id] = {answer.index: answer for answer in output.outputs}
        self.engine.check()

    def compare(self, name, index):
        """The answer is the one that the prompt gives alone."""
        answer = self.outputs[name][index]
        tokens, reason = self.model.expected(self.requests[name], index)
        got = list(answer.token_ids)
        if answer.finish_reason == "abort":
            assert name in self.aborted and got == tokens[: len(got)]
        else:
            assert (got, answer.finish_reason) == (tokens, reason)

    def watch(self, event):
        if isinstance(event, SequenceFinished):
            self.ended[event.request_id, event.index] += 1
        elif isinstance(event, IterationDone):
            assert event.num_kept <= event.num_sampled
            self.in_flight.popleft()
        elif isinstance(event, IterationLaunched):
            self.watch_launch(event)

    def watch_launch(self, event):
        keys = [(row.request_id, row.index) for row in event.rows]
        self.in_flight.append(keys)
        assert len(self.in_flight) <= self.engine.max_in_flight
        assert 1 <= len(keys) <= self.scheduler.max_batch_size
        assert sum(row.count for row in event.rows) <= self.scheduler.max_batch_tokens
        launched = Counter(key for batch in self.in_flight for key in batch)
        assert max(launched.values()) <= 1 + self.scheduler.lookahead, "a sequence in too many batches"
        self.iterations.update(keys)
        self.first_come_first_served()

    def first_come_first_served(self):
        """Whoever came earlier has run at least as often, or has nothing left to run."""
        fewest = MOST_STEPS
        for sequence in self.scheduler.pool.by_arrival():
            ran = self.iterations[sequence.key]
            assert ran <= fewest, f"{sequence.key} overtook"
            if not sequence.will_end_by_length:
                fewest = min(fewest, ran)


def test_engine_under_work():
    run_state_machine_as_test(EngineUnderWork, settings=settings(stateful_step_count=30))
