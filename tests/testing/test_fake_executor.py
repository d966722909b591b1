"""The fake executor must catch what it is there to catch; otherwise the tests that lean on it prove nothing."""

import numpy as np
import pytest

from orca_jax.core.errors import EngineError
from orca_jax.core.plan import Row, Sampling, Seat, StepPlan
from orca_jax.testing.fake_executor import FakeExecutor, FakeModel
from orca_jax.testing.requests import make_request

MODEL = FakeModel()


def make_executor(**changes):
    return FakeExecutor(**{"model": MODEL, "num_pages": 8, "page_size": 2, "num_slots": 4, **changes})


def make_seat(slot, pages, prompt_len, **sampling):
    return Seat(slot, np.array(pages, np.int32), Sampling(prompt_len=prompt_len, **sampling))


def run(executor, *rows):
    executor.launch(StepPlan(rows))
    return executor.collect()


def answer(executor, seat, prompt, length):
    """The answer of one sequence by itself: the prompt whole, then token by token."""
    tokens = [run(executor, Row(seat, 0, len(prompt), tuple(prompt), True)).tokens[0]]
    for start in range(len(prompt), len(prompt) + length - 1):
        tokens.append(run(executor, Row(seat, start, 1, (tokens[-1],), True)).tokens[0])
    return tokens


def test_the_answer_is_the_expected_one_wherever_it_is_seated():
    request = make_request([5, 6, 7], 6)
    expected, reason = MODEL.expected(request)
    assert reason == "length" and len(set(expected)) > 3
    for slot, pages in ((0, [0, 1, 2, 3, 4]), (3, [7, 2, 5, 0, 6])):
        assert answer(make_executor(), make_seat(slot, pages, 3), [5, 6, 7], 6) == expected


def test_chunks_and_tokens_still_on_the_device_change_nothing():
    executor, seat = make_executor(), make_seat(0, [3, 1, 2], 3)
    expected, _ = MODEL.expected(make_request([5, 6, 7], 3))
    for row in (Row(seat, 0, 2, (5, 6), False), Row(seat, 2, 1, (7,), True), Row(seat, 3, 1, (), True)):
        executor.launch(StepPlan((row,)))
    assert executor.num_in_flight == 3
    assert [executor.collect().tokens for _ in range(3)] == [(-1,), (expected[0],), (expected[1],)]


def test_the_expected_answer_depends_on_every_part_of_the_prompt_and_on_the_index():
    def expected(prompt, index=0):
        return MODEL.expected(make_request(prompt, 4, n=2), index)[0]

    base = expected([5, 6, 7])
    assert len({tuple(base), *map(tuple, map(expected, ([6, 5, 7], [5, 6], [5, 6, 8], [4, 6, 7])))}) == 5
    assert expected([5, 6, 7], 1) != base


def test_end_of_sequence_comes_as_configured_and_not_before_min_tokens():
    model = FakeModel(vocab_size=50, eos_every=3)
    lengths = []
    for first in range(40):
        tokens, reason = model.expected(make_request([first], 20))
        assert (tokens[-1] == 0) == (reason == "stop") and 0 not in tokens[:-1]
        lengths.append(len(tokens))
        late, _ = model.expected(make_request([first], 20, min_tokens=5))
        assert len(late) > 5 and 0 not in late[:5]
        through, _ = model.expected(make_request([first], 20, ignore_eos=True))
        assert len(through) == 20
    assert min(lengths) == 1 and 2 < sum(lengths) / 40 < 5


@pytest.mark.parametrize("table", ["_tokens", "_positions", "_states"])
@pytest.mark.parametrize(("page", "offset"), [(3, 0), (3, 1), (1, 0)])
def test_what_stands_in_the_pages_decides(table, page, offset):
    executor, seat = make_executor(), make_seat(0, [3, 1, 2], 3)
    first = run(executor, Row(seat, 0, 3, (5, 6, 7), True)).tokens[0]
    executor.__dict__[table][page, offset] += 1
    expected, _ = MODEL.expected(make_request([5, 6, 7], 2))
    assert run(executor, Row(seat, 3, 1, (first,), True)).tokens[0] != expected[1]


def test_results_stay_hidden_until_collected_oldest_first():
    executor = make_executor(depth=3)
    rows = [Row(make_seat(slot, [slot], 1), 0, 1, (slot,), True) for slot in range(3)]
    for row in rows:
        executor.launch(StepPlan((row,)))
    expected = [MODEL.expected(make_request([slot], 1))[0] for slot in range(3)]
    assert [list(executor.collect().tokens) for _ in range(3)] == expected
    with pytest.raises(EngineError, match="nothing in flight"):
        executor.collect()


def test_log_probabilities_for_the_rows_that_asked():
    seats = [make_seat(0, [0, 1], 3), make_seat(1, [2, 3], 3, logprobs=2, prompt_logprobs=1)]
    executor = make_executor()
    first = run(executor, Row(seats[0], 0, 3, (5, 6, 7), True), Row(seats[1], 0, 2, (5, 6), False, 7))
    assert first.logprobs == {} and [entry.token for entry in first.prompt_logprobs[1]] == [6, 7]
    second = run(executor, Row(seats[1], 2, 1, (7,), True))
    assert second.prompt_logprobs == {} and list(second.logprobs) == [0]
    assert second.logprobs[0].token == second.tokens[0] == second.logprobs[0].top[0][0]
    assert len(second.logprobs[0].top) == 2


A, B = make_seat(0, [0, 1], 2), make_seat(1, [2, 3], 2)
FIRST = Row(A, 0, 2, (5, 6), True)
NEXT = MODEL.expected(make_request([5, 6], 1))[0][0]
MISTAKES = {
    "a position launched again": Row(A, 1, 1, (6,), True),
    "a position left out": Row(A, 3, 1, (NEXT,), True),
    "the same seat from the start": FIRST,
    "a token that was not sampled": Row(A, 2, 1, (NEXT + 1,), True),
    "more tokens than positions": Row(B, 0, 1, (5, 6), True),
    "no tokens for a prompt": Row(B, 0, 2, (), True),
    "beyond its pages": Row(B, 0, 5, (1, 2, 3, 4, 5), True),
    "somebody's slot": Row(make_seat(0, [4, 5], 2), 2, 1, (NEXT,), True),
    "a slot that was never begun": Row(make_seat(2, [4, 5], 2), 2, 1, (NEXT,), True),
    "a page twice": Row(make_seat(1, [2, 2], 2), 0, 2, (5, 6), True),
    "prompt log-probabilities without the next token": Row(make_seat(1, [2], 2, prompt_logprobs=0), 0, 1, (5,), False),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_refuses(mistake):
    executor = make_executor()
    run(executor, FIRST)
    with pytest.raises(EngineError, match="cannot be right"):
        run(executor, mistake)


def test_refuses_two_rows_that_share_a_page():
    thief = make_seat(1, [4, 1], 2)
    with pytest.raises(EngineError, match="share a page"):
        run(make_executor(), FIRST, Row(thief, 0, 2, (5, 6), True))


def test_refuses_a_row_whose_page_was_given_to_another():
    executor = make_executor()
    run(executor, FIRST)
    run(executor, Row(make_seat(1, [4, 1], 2), 0, 2, (5, 6), True))
    with pytest.raises(EngineError, match="pages given away"):
        run(executor, Row(A, 2, 1, (NEXT,), True))


def test_a_seat_may_grow_but_not_move():
    wider, moved = Seat(0, np.array([0, 1, 4], np.int32), A.sampling), Seat(0, np.array([1, 0], np.int32), A.sampling)
    executor = make_executor()
    run(executor, FIRST)
    run(executor, Row(wider, 2, 1, (NEXT,), True))
    with pytest.raises(EngineError, match="lost pages"):
        run(executor, Row(moved, 3, 1, (), True))


def test_refuses_to_run_nothing_or_after_close():
    executor = make_executor()
    with pytest.raises(EngineError, match="empty plan"):
        run(executor)
    executor.close()
    executor.close()
    with pytest.raises(EngineError, match="closed"):
        run(executor, FIRST)
