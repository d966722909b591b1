"""The loop: what is launched when, what is announced, and how it ends, well or badly."""

import dataclasses

import pytest

from orca_jax.core.clock import ManualClock
from orca_jax.core.errors import EngineError, RequestError
from orca_jax.core.events import IterationDone, IterationLaunched, RequestArrived, SequenceFinished
from orca_jax.core.plan import NOT_A_NUMBER
from orca_jax.core.sequence import Phase
from orca_jax.testing.fake_executor import FakeExecutor, FakeModel
from orca_jax.testing.on_demand import OnDemand
from orca_jax.testing.requests import make_request


def add(engine, names, prompt=4, max_tokens=4, **params):
    for name in names:
        engine.add_request(make_request(prompt, max_tokens, request_id=name, **params))


def run(engine):
    """Step to the end, checking after each; gives every output that came."""
    outputs = []
    while engine.has_unfinished:
        outputs += engine.step()
        engine.check()
    return outputs


def ends(outputs):
    """{(request id, index): (tokens, finish reason)} of the requests that ended, each of which must end once."""
    finished = [output for output in outputs if output.finished]
    assert len({output.request_id for output in finished}) == len(finished)
    return {
        (output.request_id, answer.index): (list(answer.token_ids), answer.finish_reason)
        for output in finished
        for answer in output.outputs
    }


def batches(events):
    """The request ids of each iteration that was launched, as one word."""
    return ["".join(row.request_id for row in event.rows) for event in events if isinstance(event, IterationLaunched)]


def test_figure_8a_through_the_loop(make_engine):
    events = []
    engine = make_engine(2, depth=3, observers=[events.append])
    add(engine, "ABCDEF", max_tokens=3)
    for _ in range(3):
        engine.step()
    assert batches(events) == ["AB", "CD", "EF"]
    assert [type(event) for event in events[6:]] == [IterationLaunched] * 3 + [IterationDone], "then it waits for AB"
    run(engine)
    assert batches(events) == ["AB", "CD", "EF"] * 3


def test_the_faithful_loop_takes_back_each_iteration_before_the_next(make_engine):
    events = []
    engine = make_engine(2, observers=[events.append])
    add(engine, "AB", max_tokens=3)
    add(engine, "C", max_tokens=1)
    outputs = engine.step()
    assert [output.request_id for output in outputs] == ["A", "B"]
    run(engine)
    kinds = [type(event) for event in events if isinstance(event, IterationLaunched | IterationDone)]
    assert kinds == [IterationLaunched, IterationDone] * 4 and batches(events) == ["AB", "AB", "AB", "C"]


def test_looking_ahead_keeps_two_iterations_of_the_same_batch_in_flight(make_engine):
    events = []
    engine = make_engine(2, lookahead=1, observers=[events.append])
    add(engine, "AB", max_tokens=3)
    assert engine.step() == [] and engine.executor.num_in_flight == 1
    assert len(engine.step()) == 2 and engine.executor.num_in_flight == 1
    outputs = run(engine)
    assert batches(events) == ["AB", "AB", "AB"], "an end by length is known beforehand"
    assert {len(tokens) for tokens, _ in ends(outputs).values()} == {3}


def test_nothing_to_do_returns_at_once(make_engine):
    engine = make_engine()
    assert not engine.has_unfinished and engine.step() == []
    assert engine.statistics()["iterations"] == 0


def test_an_arrival_joins_the_next_iteration(make_engine):
    events = []
    engine = make_engine(observers=[events.append])
    add(engine, "A")
    engine.step()
    add(engine, "B", prompt=3)
    engine.step()
    rows = [event for event in events if isinstance(event, IterationLaunched)][1].rows
    assert [(row.request_id, row.phase, row.start, row.count) for row in rows] == [
        ("A", Phase.INCREMENT, 4, 1),
        ("B", Phase.INITIATION, 0, 3),
    ]


def test_the_surplus_iteration_is_taken_back_after_the_answer_was_delivered(make_engine):
    engine = make_engine(lookahead=1, model=FakeModel(eos_every=1))
    add(engine, "A", max_tokens=9)
    outputs = engine.step() + engine.step()
    assert ends(outputs) == {("A", 0): ([0], "stop")}
    assert engine.has_unfinished and engine.statistics()["iterations_in_flight"] == 1
    assert engine.step() == [] and not engine.has_unfinished


def test_events_tell_the_whole_story(make_engine):
    clock, events = ManualClock(5.0), []
    engine = make_engine(1, page_size=2, num_pages=10, clock=clock, observers=[events.append])
    add(engine, "AB", prompt=3, max_tokens=2, arrival_time=4.0)
    engine.step()
    clock.advance(1.0)
    engine.step()
    assert events[:2] == [RequestArrived(name, 4.0, 3, 2, 1) for name in "AB"]
    launched, done, again, ended, last = events[2:]
    assert (launched.iteration, launched.time, launched.waiting) == (0, 5.0, (("B", 0),))
    assert (launched.pages_reserved, launched.pages_used, launched.num_pages) == (3, 2, 10)
    assert done == IterationDone(0, 5.0, 1, 1, pages_reserved=3)
    assert (again.iteration, again.time, again.rows[0].phase) == (1, 6.0, Phase.INCREMENT)
    assert ended == SequenceFinished("A", 0, 6.0, "length", 2)
    assert last == IterationDone(1, 6.0, 1, 1)


def test_chunks_are_named_and_bring_no_token(make_engine):
    events = []
    engine = make_engine(max_batch_tokens=3, chunked=True, observers=[events.append])
    add(engine, "A", prompt=5, max_tokens=1)
    run(engine)
    phases = [row.phase for event in events if isinstance(event, IterationLaunched) for row in event.rows]
    assert phases == [Phase.CHUNK, Phase.CHUNK]
    assert [event.num_sampled for event in events if isinstance(event, IterationDone)] == [0, 1]


def test_a_surplus_token_counts_as_sampled_and_not_as_kept(make_engine):
    events = []
    engine = make_engine(lookahead=1, model=FakeModel(eos_every=1), observers=[events.append])
    add(engine, "A", max_tokens=9)
    run(engine)
    done = [event for event in events if isinstance(event, IterationDone)]
    assert [(event.num_sampled, event.num_kept) for event in done] == [(1, 1), (1, 0)]


def test_an_event_names_no_more_than_a_bounded_number_of_those_waiting(make_engine):
    events = []
    engine = make_engine(2, observers=[events.append])
    add(engine, [str(number) for number in range(400)])
    engine.step()
    (launched,) = [event for event in events if isinstance(event, IterationLaunched)]
    assert launched.waiting[:2] == (("2", 0), ("3", 0)) and len(launched.waiting) == 256


@pytest.mark.parametrize("lookahead", [0, 1])
def test_an_abort_ends_a_request_wherever_it_is(make_engine, lookahead):
    events = []
    engine = make_engine(2, lookahead=lookahead, observers=[events.append])
    add(engine, "A", n=2)
    add(engine, "BC")
    engine.step()
    engine.abort("A")
    engine.abort("C")
    engine.abort("nobody")
    engine.check()
    outputs = run(engine)
    result = ends(outputs)
    assert {key: reason for key, (_, reason) in result.items()} == {
        ("A", 0): "abort", ("A", 1): "abort", ("B", 0): "length", ("C", 0): "abort",
    }  # fmt: skip
    assert result[("C", 0)][0] == [] and len(result[("B", 0)][0]) == 4
    ended = [event for event in events if isinstance(event, SequenceFinished)]
    assert sorted((event.request_id, event.index) for event in ended) == sorted(result)
    engine.abort("A")
    assert not engine.has_unfinished


def test_an_aborted_request_is_delivered_though_nothing_runs(make_engine):
    engine = make_engine()
    add(engine, "A")
    engine.abort("A")
    assert engine.has_unfinished
    assert ends(engine.step()) == {("A", 0): ([], "abort")}
    assert not engine.has_unfinished


def test_a_refused_request_leaves_no_trace(make_engine):
    engine = make_engine(num_pages=4)
    with pytest.raises(RequestError, match="need 5 pages of 2, but this engine has 4"):
        add(engine, "A", prompt=5, max_tokens=4)
    add(engine, "B")
    with pytest.raises(RequestError, match="in use"):
        add(engine, "B")
    assert list(ends(run(engine))) == [("B", 0)]


def test_an_id_is_free_again_once_its_last_output_was_taken(make_engine):
    engine = make_engine()
    add(engine, "A")
    engine.abort("A")
    with pytest.raises(RequestError, match="in use"):
        add(engine, "A")
    assert ends(run(engine)) == {("A", 0): ([], "abort")}
    add(engine, "A", max_tokens=1)
    assert len(ends(run(engine))[("A", 0)][0]) == 1


class BreaksOnLaunch(FakeExecutor):
    def launch(self, plan, masks=None):
        if self._num_launched == 2:
            raise RuntimeError("device lost\nat some address")
        super().launch(plan, masks)


class BreaksOnCollect(FakeExecutor):
    def collect(self):
        if self._num_launched == 2:
            raise RuntimeError("device lost\nat some address")
        return super().collect()


@pytest.mark.parametrize("broken", [BreaksOnLaunch, BreaksOnCollect])
@pytest.mark.parametrize("lookahead", [0, 1])
def test_a_failing_executor_ends_every_request_once(make_engine, broken, lookahead):
    events = []
    engine = make_engine(2, lookahead=lookahead, executor_type=broken, observers=[events.append])
    add(engine, "AB", max_tokens=6)
    add(engine, "C", n=2)
    outputs = run(engine)
    assert {reason for _, reason in ends(outputs).values()} == {"error"} and len(ends(outputs)) == 4
    assert len([event for event in events if isinstance(event, SequenceFinished)]) == 4
    assert str(engine.failure).endswith("RuntimeError: device lost")
    assert {output.error for output in outputs if output.finished} == {str(engine.failure)}
    with pytest.raises(EngineError, match="takes no more requests"):
        engine.step()
    with pytest.raises(EngineError, match="takes no more requests"):
        add(engine, "D")
    engine.abort("A")
    engine.check()
    engine.close()


class Interrupted(FakeExecutor):
    def collect(self):
        raise KeyboardInterrupt


def test_an_interrupt_in_the_middle_of_an_iteration_goes_on_up(make_engine):
    engine = make_engine(executor_type=Interrupted)
    add(engine, "A")
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    assert ends(engine.step()) == {("A", 0): ([], "error")}
    with pytest.raises(EngineError, match="KeyboardInterrupt"):
        engine.step()


def test_close_ends_what_lives_and_takes_nothing_more(make_engine):
    events = []
    engine = make_engine(lookahead=1, observers=[events.append])
    add(engine, "AB")
    engine.step()
    engine.close()
    engine.close()
    assert [event.reason for event in events if isinstance(event, SequenceFinished)] == ["abort", "abort"]
    assert {reason for _, reason in ends(engine.step()).values()} == {"abort"}
    assert not engine.has_unfinished
    with pytest.raises(EngineError, match="closed"):
        add(engine, "C")


def test_an_observer_that_fails_at_the_end_keeps_no_memory(make_engine):
    def fail(event):
        if isinstance(event, SequenceFinished):
            raise OSError("disk full")

    engine = make_engine(observers=[fail])
    add(engine, "A")
    engine.step()
    with pytest.raises(OSError, match="disk full"):
        engine.close()
    assert engine.executor._closed


class Remembers(FakeExecutor):
    def launch(self, plan, masks=None):
        rows = [(row.seat.slot, row.seat.pages.tolist(), row.start, row.count, row.tokens) for row in plan.rows]
        self.__dict__.setdefault("plans", []).append(rows)
        super().launch(plan, masks)


def test_a_run_repeats_exactly(make_engine):
    """Down to the slots and pages: a recorded run can be replayed."""
    plans = []
    for _ in range(2):
        engine = make_engine(3, depth=2, lookahead=1, num_pages=20, eos_every=4, executor_type=Remembers)
        for number in range(20):
            add(engine, [str(number)], prompt=1 + number % 5, max_tokens=1 + number % 7)
            engine.step()
            if number % 6 == 5:
                engine.abort(str(number - 1))
        run(engine)
        plans.append(engine.executor.plans)
    assert plans[0] == plans[1] and len(plans[0]) > 20


def test_statistics_count(make_engine):
    engine = make_engine(2, page_size=2, num_pages=8)
    add(engine, "ABC")
    engine.step()
    statistics = engine.statistics()
    expected = {"iterations": 1, "iterations_in_flight": 0, "requests": 3, "sequences_running": 2,
                "sequences_waiting": 1, "pages_reserved": 8, "pages_used": 4, "num_pages": 8, "steps": 1}  # fmt: skip
    assert {name: statistics[name] for name in expected} == expected


def in_need(engine):
    """The live sequences whose next token has no page."""
    kv = engine.scheduler.kv
    return [
        sequence
        for sequence in engine.scheduler.pool.by_arrival()
        if sequence.seat is None or kv.pages_for(sequence.num_launched + 1) > len(sequence.seat.pages)
    ]


@pytest.mark.parametrize("page_size", [1, 2])
def test_without_reservation_the_deadlock_appears(make_engine, page_size):
    """E10: each of two requests fits, both start, and then each lacks room for its next token, for ever."""
    engine = make_engine(4, num_pages=12 // page_size, page_size=page_size, policy=OnDemand)
    add(engine, "AB", prompt=4, max_tokens=6)
    while (scheduled := engine.scheduler.schedule()).sequences:
        engine.executor.launch(scheduled.plan)
        engine.scheduler.update(scheduled, engine.executor.collect())
    assert len(in_need(engine)) == 2 and engine.scheduler.kv.pages_reserved == engine.scheduler.kv.num_pages
    outputs = run(engine)
    assert "none of 2 sequences can move" in str(engine.failure)
    assert {reason for _, reason in ends(outputs).values()} == {"error"}


@pytest.mark.parametrize("page_size", [1, 2])
def test_with_reservation_the_deadlock_does_not_appear(make_engine, page_size):
    engine = make_engine(4, num_pages=12 // page_size, page_size=page_size)
    add(engine, "AB", prompt=4, max_tokens=6)
    outputs = run(engine)
    assert engine.failure is None
    assert {(len(tokens), reason) for tokens, reason in ends(outputs).values()} == {(6, "length")}


class Diverging(FakeExecutor):
    """An executor whose logits are not numbers for one slot, once."""

    slot = 1

    def collect(self):
        result = super().collect()
        tokens = list(result.tokens)
        if len(tokens) > self.slot and self.slot >= 0:
            tokens[self.slot] = NOT_A_NUMBER
            self.slot = -1
        return dataclasses.replace(result, tokens=tuple(tokens))


@pytest.mark.parametrize("lookahead", [0, 1])
def test_logits_that_are_not_finite_end_their_request_and_no_other(make_engine, lookahead):
    engine = make_engine(executor_type=Diverging, lookahead=lookahead)
    add(engine, "abc")
    done = [output for output in run(engine) if output.finished]
    failed = {output.request_id: output.error for output in done if output.error}
    assert list(failed) == ["b"] and "not finite" in failed["b"]
    assert all(output.error_parameter is None for output in done), "no field of a request is to blame"
    tokens, reason = engine.executor.model.expected(make_request(4, 4), 0)
    assert [ends(done)[name, 0] for name in "ac"] == [(list(tokens), reason)] * 2
    assert ends(done)["b", 0][1] == "error"


def test_a_sibling_that_ends_in_the_same_iteration_keeps_its_answer(make_engine):
    engine = make_engine(executor_type=Diverging)
    events = []
    engine.observers = (events.append,)
    engine.add_request(make_request(4, 1, request_id="a", n=2))
    (done,) = [output for output in run(engine) if output.finished]
    assert [answer.finish_reason for answer in done.outputs] == ["length", "error"]
    assert [len(answer.token_ids) for answer in done.outputs] == [1, 0]
    assert [event.reason for event in events if isinstance(event, SequenceFinished)] == ["length", "error"]
