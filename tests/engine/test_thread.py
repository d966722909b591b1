"""The engine in a thread: every request ends once, whoever hands it over, aborts it, fails or closes meanwhile."""

import contextlib
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orca_jax.core.clock import MonotonicClock
from orca_jax.core.errors import EngineError
from orca_jax.engine.thread import EngineThread
from orca_jax.testing.fake_executor import FakeExecutor
from orca_jax.testing.requests import make_request

PATIENCE = 30.0


class Inbox:
    """A sink that keeps what it is told and can wait for the ends of several requests."""

    def __init__(self):
        self.outputs = []
        self._changed = threading.Condition()

    def __call__(self, output):
        with self._changed:
            self.outputs.append(output)
            self._changed.notify_all()

    def ended(self):
        return [output for output in self.outputs if output.finished]

    def wait(self, count):
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.ended()) >= count, PATIENCE), self.outputs
        return {output.request_id: output for output in self.ended()}


class SlowExecutor(FakeExecutor):
    """Takes its time, so that there is something to interrupt."""

    def collect(self):
        time.sleep(0.002)
        return super().collect()


class FailingExecutor(FakeExecutor):
    def collect(self):
        raise OSError("the device is gone")


class StuckExecutor(FakeExecutor):
    release = threading.Event()

    def collect(self):
        self.release.wait(PATIENCE)
        return super().collect()


def requests_of(*names, **params):
    return [make_request(3, request_id=name, arrival=number, **params) for number, name in enumerate(names)]


def reasons(output):
    return {answer.finish_reason for answer in output.outputs}


def test_answers_come_while_others_are_handed_over(make_engine):
    inbox = Inbox()
    with EngineThread(make_engine(executor_type=SlowExecutor)) as thread:
        thread.submit(requests_of("a", "b"), inbox)
        thread.submit(requests_of("c"), inbox)
        ends = inbox.wait(3)
        assert thread.call(lambda engine: engine.statistics()).result(PATIENCE)["iterations"] > 0
        assert thread.call(lambda engine: engine.check()).result(PATIENCE) is None
    assert {name: reasons(output) for name, output in ends.items()} == {name: {"length"} for name in "abc"}


def test_abort_ends_within_an_iteration_and_unknown_ones_are_ignored(make_engine):
    inbox = Inbox()
    with EngineThread(make_engine(num_pages=4096, executor_type=SlowExecutor)) as thread:
        thread.submit(requests_of("a", max_tokens=2000), inbox)
        thread.abort(["a", "never heard of"])
        assert reasons(inbox.wait(1)["a"]) == {"abort"}
        assert thread.call(lambda engine: engine.scheduler.kv.pages_reserved).result(PATIENCE) == 0


def test_a_failure_of_the_engine_reaches_every_request_and_every_later_caller(make_engine, caplog):
    inbox = Inbox()
    thread = EngineThread(make_engine(executor_type=FailingExecutor))
    thread.submit(requests_of("a", "b"), inbox)
    ends = inbox.wait(2)
    assert all("the device is gone" in output.error for output in ends.values())
    assert not thread.alive
    with pytest.raises(EngineError, match="the device is gone"):
        thread.submit(requests_of("c"), inbox)
    assert "the device is gone" in caplog.text
    assert thread.close()
    assert len(inbox.ended()) == 2


def test_closing_ends_what_is_live_and_refuses_what_comes_later(make_engine):
    inbox = Inbox()
    thread = EngineThread(make_engine(num_pages=4096, executor_type=SlowExecutor))
    thread.submit(requests_of("a", max_tokens=2000), inbox)
    assert thread.close()
    assert reasons(inbox.wait(1)["a"]) <= {"abort", "error"}  # "error" where it had not been looked at
    with pytest.raises(EngineError, match="closed"):
        thread.submit(requests_of("b"), inbox)
    thread.abort(["a"])
    assert thread.close(), "closing twice is closing"


def test_a_call_of_which_one_request_is_refused_runs_none_of_them(make_engine):
    inbox = Inbox()
    with EngineThread(make_engine(num_pages=8, page_size=2)) as thread:
        fits, too_long = requests_of("fits"), requests_of("too long", max_tokens=500)
        thread.submit([*fits, *too_long], inbox)
        ends = inbox.wait(2)
        assert all(reasons(output) == {"error"} for output in ends.values())
        assert thread.call(lambda engine: engine.has_unfinished).result(PATIENCE) is False
        thread.submit(requests_of("fits"), inbox)
        assert reasons(inbox.wait(3)["fits"]) == {"length"}, "its id is free again"


def test_a_sink_that_raises_harms_nobody_else(make_engine, caplog):
    inbox = Inbox()

    def broken(output):
        raise KeyError("defect")

    with EngineThread(make_engine(executor_type=SlowExecutor)) as thread:
        thread.submit(requests_of("broken"), broken)
        thread.submit(requests_of("a"), inbox)
        assert reasons(inbox.wait(1)["a"]) == {"length"}
        assert thread.alive
    assert "failed to take an output" in caplog.text


def test_a_hung_iteration_shows_and_does_not_hang_the_closing(make_engine):
    StuckExecutor.release.clear()
    thread = EngineThread(make_engine(executor_type=StuckExecutor, clock=MonotonicClock()))
    assert thread.busy_seconds() == 0.0
    thread.submit(requests_of("a"), Inbox())
    deadline = time.monotonic() + PATIENCE
    while thread.busy_seconds() < 0.05:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert not thread.close(timeout=0.05)
    StuckExecutor.release.set()
    assert thread.close(timeout=PATIENCE)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    callers=st.lists(
        st.tuples(st.integers(1, 3), st.sampled_from(["wait", "abort", "both"]), st.floats(0, 0.01)),
        min_size=1,
        max_size=6,
    ),
    closes=st.booleans(),
)
def test_exactly_one_end_each_whatever_the_callers_do(make_engine, callers, closes):
    inbox = Inbox()
    thread = EngineThread(make_engine(executor_type=SlowExecutor))
    names = []

    def call(number, count, wish, pause):
        mine = [f"{number}.{i}" for i in range(count)]
        try:
            thread.submit(requests_of(*mine, max_tokens=6), inbox)
        except EngineError:
            return
        names.extend(mine)
        time.sleep(pause)
        if wish != "wait":
            thread.abort(mine[:1] if wish == "both" else mine)

    threads = [threading.Thread(target=call, args=(i, *caller)) for i, caller in enumerate(callers)]
    for each in threads:
        each.start()
    if closes:
        thread.close()
    for each in threads:
        each.join(PATIENCE)
    inbox.wait(len(names))
    assert thread.close()
    assert sorted(output.request_id for output in inbox.ended()) == sorted(names)


def test_a_defect_in_the_thread_is_the_engines_failure_and_everybody_is_told(make_engine, caplog):
    inbox, armed = Inbox(), []

    def observer(event):
        if armed:
            raise KeyError("a defect")

    thread = EngineThread(make_engine(num_pages=4096, executor_type=SlowExecutor, observers=[observer]))
    thread.submit(requests_of("live", max_tokens=2000), inbox)
    armed.append(True)
    with contextlib.suppress(EngineError):  # the failure may have come first
        thread.submit(requests_of("late"), inbox)
    inbox.wait(1)
    thread.close()
    assert thread.failure is not None
    ended = [output.request_id for output in inbox.ended()]
    assert len(ended) == len(set(ended)) and "live" in ended
    assert "a defect" in caplog.text


def test_a_defect_while_a_request_is_taken_in_ends_that_request_too(make_engine):
    inbox = Inbox()
    engine = make_engine()

    def broken(request):
        raise KeyError("a defect")

    engine.add_request = broken
    thread = EngineThread(engine)
    thread.submit(requests_of("a", "b"), inbox)
    assert {reasons(output) == {"error"} for output in inbox.wait(2).values()} == {True}
    thread._thread.join(PATIENCE)
    with pytest.raises(EngineError):
        thread.submit(requests_of("c"), inbox)
