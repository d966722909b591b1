"""Grammars in the loop: who waits for whom, how answers end, and that a failure is nobody else's."""

from dataclasses import replace

import numpy as np
import pytest

from orca_jax.core.errors import GrammarError
from orca_jax.core.events import IterationLaunched, SequenceFinished
from orca_jax.testing.fake_executor import FakeExecutor, FakeModel
from orca_jax.testing.requests import make_request

WORDS = 2  # a vocabulary of 64
MODEL = FakeModel(vocab_size=64)


class Countdown:
    """Allows the odd ids of each step, for `length` steps; with `may_end` the end as well, from the first step on."""

    words = WORDS

    def __init__(self, length, may_end=False, fails_to_fill=None, fails_to_accept=None, empty_at=None):
        self.length, self.may_end, self.empty_at = length, may_end, empty_at
        self.fails_to_fill, self.fails_to_accept = fails_to_fill, fails_to_accept
        self.eos_ids = []

    def matcher(self, eos_ids):
        self.eos_ids.append(eos_ids)
        return Step(self)


class Step:
    def __init__(self, grammar):
        self.grammar, self.said = grammar, 0

    def allowed(self):
        if self.said == self.grammar.empty_at:
            return set()
        return {t for t in range(1, 64) if t % 4 == 1 + 2 * (self.said % 2)} | ({0} if self.grammar.may_end else set())

    def fill(self, line):
        if self.said == self.grammar.fails_to_fill:
            raise GrammarError("cannot fill")
        bits = np.zeros(64, np.uint8)
        bits[list(self.allowed())] = 1
        line[:] = np.packbits(bits, bitorder="little").view(np.int32)

    def accept(self, token):
        if self.said == self.grammar.fails_to_accept:
            raise GrammarError("cannot accept")
        assert token in self.allowed()
        self.said += 1

    @property
    def finished(self):
        return self.said == self.grammar.length


class Watched(FakeExecutor):
    """Counts the calls for masks."""

    asked = 0

    def launch(self, plan, masks=None):
        def counted():
            self.asked += 1
            given = masks()
            assert all(plan.rows[i].samples for i in given)
            return given

        super().launch(plan, None if masks is None else counted)


def constrained(grammar, prompt=3, max_tokens=8, **params):
    return replace(make_request(prompt, max_tokens, **params), grammar=grammar)


def run(engine, *requests):
    for request in requests:
        engine.add_request(request)
    ended = {}
    for _ in range(200):
        for output in engine.step():
            ended[output.request_id] = output
        engine.check()
        if not engine.has_unfinished:
            break
    assert engine.scheduler.kv.pages_reserved == 0
    return ended


@pytest.fixture
def engine_of(make_engine):
    return lambda **settings: make_engine(model=MODEL, executor_type=Watched, **settings)


@pytest.mark.parametrize("lookahead", [0, 1])
def test_a_complete_answer_ends_with_stop_and_one_cut_off_with_length(engine_of, lookahead):
    engine = engine_of(lookahead=lookahead)
    ended = run(engine, constrained(Countdown(5), arrival=0), constrained(Countdown(8), arrival=1),
                constrained(Countdown(9), arrival=2), constrained(Countdown(99, may_end=True), arrival=3))  # fmt: skip
    answers = [ended[str(i)].outputs[0] for i in range(4)]
    assert [(a.finish_reason, len(a.token_ids)) for a in answers[:3]] == [("stop", 5), ("stop", 8), ("length", 8)]
    for answer in answers[:3]:
        assert all(token % 4 == 1 + 2 * (i % 2) for i, token in enumerate(answer.token_ids))
        assert answer.stop_reason is None
    assert answers[3].finish_reason == ("stop" if answers[3].token_ids[-1] == 0 else "length")


@pytest.mark.parametrize("lookahead", [0, 1])
def test_only_rows_with_a_grammar_wait_for_their_token(engine_of, lookahead):
    launched = []
    engine = engine_of(
        lookahead=lookahead, observers=[lambda e: launched.append(e) if isinstance(e, IterationLaunched) else None]
    )
    alone = make_request(3, 20, arrival=9)
    expected = MODEL.expected(alone)
    ended = run(engine, constrained(Countdown(6), arrival=0), replace(alone, request_id="free", arrival=1))
    rows = [{row.request_id for row in event.rows} for event in launched]
    free = [i for i, ids in enumerate(rows) if "free" in ids]
    held = [i for i, ids in enumerate(rows) if "0" in ids]
    assert free == list(range(20)), "the neighbour runs in every iteration, as it would alone"
    assert held == [i * (1 + lookahead) for i in range(6)]
    assert (ended["free"].outputs[0].token_ids, ended["free"].outputs[0].finish_reason) == expected


def test_masks_are_asked_for_once_for_each_iteration_that_needs_them_and_not_for_chunks(engine_of):
    engine = engine_of(lookahead=1, max_batch_tokens=4, chunked=True)
    ended = run(engine, constrained(Countdown(3), prompt=14))
    assert ended["0"].outputs[0].finish_reason == "stop"
    assert engine.executor.asked == 3
    assert engine.statistics()["iterations"] == 6  # four chunks of the prompt, the last of which brings the first token


def test_each_of_n_answers_follows_the_grammar_by_itself(engine_of):
    grammar = Countdown(5)
    ended = run(engine_of(lookahead=1), constrained(grammar, n=3, stop_token_ids=(1, 13, 25)))
    assert len(grammar.eos_ids) == 3 and set(grammar.eos_ids) == {(0,)}
    for answer in ended["0"].outputs:
        assert answer.finish_reason == "stop"
        assert all(token % 4 == 1 + 2 * (i % 2) for i, token in enumerate(answer.token_ids))
        assert answer.stop_reason in (1, 13, 25) or len(answer.token_ids) == 5


@pytest.mark.parametrize("lookahead", [0, 1])
@pytest.mark.parametrize(
    ("broken", "kept", "message"),
    [
        ({"fails_to_fill": 0}, 0, "cannot fill"),
        ({"fails_to_fill": 3}, 3, "cannot fill"),
        ({"fails_to_accept": 2}, 3, "cannot accept"),
        ({"empty_at": 2}, 2, "structured_outputs have left no token"),
    ],
)
def test_a_grammar_that_fails_ends_its_own_request_only(engine_of, lookahead, broken, kept, message):
    events = []
    engine = engine_of(lookahead=lookahead, observers=[events.append])
    other = make_request(4, 9, arrival=1)
    ended = run(engine, constrained(Countdown(99, **broken), arrival=0), other,
                constrained(Countdown(7), arrival=2))  # fmt: skip
    assert ended["0"].outputs[0].finish_reason == "error" and message in ended["0"].error
    assert ended["0"].error_parameter == ("structured_outputs" if "empty_at" in broken else None)
    assert len(ended["0"].outputs[0].token_ids) == kept
    assert (ended["1"].outputs[0].token_ids, ended["1"].outputs[0].finish_reason) == MODEL.expected(other)
    assert ended["2"].outputs[0].finish_reason == "stop" and engine.failure is None
    assert sorted(e.request_id for e in events if isinstance(e, SequenceFinished)) == ["0", "1", "2"]


def test_an_aborted_request_takes_its_grammar_along(engine_of):
    engine = engine_of(lookahead=1)
    engine.add_request(constrained(Countdown(99)))
    for _ in range(3):
        engine.step()
    engine.abort("0")
    assert run(engine)["0"].outputs[0].finish_reason == "abort"
