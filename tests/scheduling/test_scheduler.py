"""The scheduler, traced by hand: Algorithm 1 first, then each switch."""

import pytest

from orca_jax.core.errors import ConfigError, RequestError
from orca_jax.core.plan import StepResult, TokenLogprobs
from orca_jax.scheduling.kv_manager import KVManager
from orca_jax.scheduling.scheduler import Scheduler
from orca_jax.testing.requests import make_request


def make_scheduler(max_batch_size=4, *, num_pages=100, page_size=1, num_slots=16, **switches):
    return Scheduler(KVManager(num_pages, page_size, num_slots), max_batch_size, **switches)


def add(scheduler, names, prompt=4, max_tokens=4, **params):
    for name in names:
        scheduler.add(make_request(prompt, max_tokens, request_id=name, **params))


def names(batch):
    return "".join(sequence.request.request_id for sequence in batch.sequences)


def give(scheduler, batch, *tokens):
    """Return the batch with these tokens (11 for each row where none are named); gives (name, token) pairs."""
    result = StepResult(tokens or tuple(11 if row.samples else -1 for row in batch.plan.rows))
    return [(sequence.request.request_id, token) for sequence, token, _ in scheduler.update(batch, result)]


def shares(batch):
    """(start, count, samples) of each row."""
    return [(row.start, row.count, row.samples) for row in batch.plan.rows]


def test_figure_8a():
    scheduler = make_scheduler(max_batch_size=2)
    add(scheduler, "ABCDEF", max_tokens=3)
    first, second, third = scheduler.schedule(), scheduler.schedule(), scheduler.schedule()
    assert [names(first), names(second), names(third)] == ["AB", "CD", "EF"]
    assert names(scheduler.schedule()) == "", "all six are in flight"
    give(scheduler, first)
    again = scheduler.schedule()
    assert names(again) == "AB" and shares(again) == [(4, 1, True)] * 2
    give(scheduler, second)
    assert names(scheduler.schedule()) == "CD"


def test_a_returned_batch_is_refilled_from_the_returned_and_the_new():
    scheduler = make_scheduler(max_batch_size=2)
    add(scheduler, "A", max_tokens=1)
    add(scheduler, "BCDEF")
    first, second = scheduler.schedule(), scheduler.schedule()
    assert [names(first), names(second)] == ["AB", "CD"]
    give(scheduler, first)
    assert names(scheduler.schedule()) == "BE", "A has ended, C and D are in flight"
    give(scheduler, second)
    assert names(scheduler.schedule()) == "CD"


def test_prompts_whole_then_one_token_each():
    scheduler = make_scheduler()
    add(scheduler, "A", prompt=(5, 6, 7))
    batch = scheduler.schedule()
    (row,) = batch.plan.rows
    assert (row.start, row.count, row.tokens, row.samples) == (0, 3, (5, 6, 7), True)
    assert give(scheduler, batch, 8) == [("A", 8)]
    (next_row,) = scheduler.schedule().plan.rows
    assert (next_row.start, next_row.count, next_row.tokens, next_row.samples) == (3, 1, (8,), True)
    assert next_row.seat is row.seat


def test_reservation_is_prompt_and_output_taken_at_first_selection():
    scheduler = make_scheduler(num_pages=10, page_size=4, num_slots=4)
    add(scheduler, "A", prompt=5, max_tokens=4, n=2, temperature=1.0)
    assert scheduler.kv.pages_reserved == 0
    batch = scheduler.schedule()
    assert [len(row.seat.pages) for row in batch.plan.rows] == [3, 3], "ceil(9 / 4), for each of the n"
    for _ in range(4):
        assert scheduler.kv.pages_reserved == 6
        give(scheduler, batch)
        batch = scheduler.schedule()
    assert names(batch) == "" and scheduler.kv.pages_reserved == 0


def test_stops_rather_than_skips_where_the_reservation_does_not_fit():
    scheduler = make_scheduler(num_pages=20)
    add(scheduler, "A", prompt=8, max_tokens=4)
    add(scheduler, "B", prompt=8, max_tokens=2)
    add(scheduler, "C", prompt=1, max_tokens=1)
    batch = scheduler.schedule()
    assert names(batch) == "A", "C would fit, B does not, and C is younger"
    for _ in range(3):
        give(scheduler, batch)
        batch = scheduler.schedule()
        assert names(batch) == "A"
    give(scheduler, batch)
    assert names(scheduler.schedule()) == "BC"


def test_a_reservation_that_fills_the_pool_exactly_fits():
    scheduler = make_scheduler(num_pages=16)
    add(scheduler, "ABC", prompt=4, max_tokens=4)
    assert names(scheduler.schedule()) == "AB" and scheduler.kv.pages_reserved == 16


def test_without_a_free_slot_nobody_joins():
    scheduler = make_scheduler(num_slots=1)
    add(scheduler, "AB")
    assert names(scheduler.schedule()) == "A"


def test_whole_prompts_stop_at_the_token_budget():
    scheduler = make_scheduler(max_batch_tokens=10)
    add(scheduler, "AB", prompt=6)
    add(scheduler, "C", prompt=2)
    batch = scheduler.schedule()
    assert names(batch) == "A", "B does not fit whole, and C must not overtake it"
    give(scheduler, batch)
    assert shares(scheduler.schedule()) == [(4 + 2, 1, True), (0, 6, True), (0, 2, True)]


def test_chunks_fill_the_token_budget_exactly():
    scheduler = make_scheduler(max_batch_tokens=5, chunked=True)
    add(scheduler, "A", prompt=3)
    add(scheduler, "B", prompt=9)
    seen = []
    for _ in range(4):
        batch = scheduler.schedule()
        assert batch.plan.num_tokens <= 5
        seen.append((names(batch), shares(batch)))
        give(scheduler, batch)
    assert seen == [
        ("AB", [(0, 3, True), (0, 2, False)]),
        ("AB", [(3, 1, True), (2, 4, False)]),
        ("AB", [(4, 1, True), (6, 3, True)]),
        ("AB", [(5, 1, True), (9, 1, True)]),
    ]


def test_a_chunk_carries_its_own_tokens_and_reserves_for_all():
    scheduler = make_scheduler(max_batch_tokens=2, chunked=True)
    add(scheduler, "A", prompt=(5, 6, 7), max_tokens=2)
    first = scheduler.schedule()
    assert first.plan.rows[0].tokens == (5, 6) and scheduler.kv.pages_reserved == 5
    assert give(scheduler, first) == []
    assert scheduler.schedule().plan.rows[0].tokens == (7,)


def test_a_chunk_names_the_token_after_it_only_for_prompt_logprobs():
    for wanted, after in ((None, [None, None]), (0, [7, None])):
        scheduler = make_scheduler(max_batch_tokens=2, chunked=True, lookahead=1)
        add(scheduler, "A", prompt=(5, 6, 7), prompt_logprobs=wanted)
        rows = [scheduler.schedule().plan.rows[0] for _ in range(2)]
        assert [row.next_prompt_token for row in rows] == after


def test_lookahead_launches_from_the_token_that_is_still_on_the_device():
    scheduler = make_scheduler(lookahead=1)
    add(scheduler, "A", prompt=2, max_tokens=4)
    first, second = scheduler.schedule(), scheduler.schedule()
    (row,) = second.plan.rows
    assert (row.start, row.count, row.tokens, row.samples) == (2, 1, (), True)
    assert row.seat is first.plan.rows[0].seat
    assert names(scheduler.schedule()) == "", "two in flight are enough"
    assert give(scheduler, first, 21) == [("A", 21)]
    third = scheduler.schedule()
    assert shares(third) == [(3, 1, True)] and third.plan.rows[0].tokens == ()
    assert give(scheduler, second, 22) == [("A", 22)]


def test_lookahead_runs_the_chunks_of_a_prompt_without_waiting():
    scheduler = make_scheduler(max_batch_tokens=2, chunked=True, lookahead=1)
    add(scheduler, "A", prompt=(5, 6, 7))
    first, second = scheduler.schedule(), scheduler.schedule()
    assert [row.tokens for batch in (first, second) for row in batch.plan.rows] == [(5, 6), (7,)]
    give(scheduler, first)
    assert scheduler.schedule().plan.rows[0].tokens == ()


@pytest.mark.parametrize("lookahead", [0, 1])
@pytest.mark.parametrize("max_tokens", [1, 2, 5])
def test_an_end_by_length_never_overshoots(lookahead, max_tokens):
    scheduler = make_scheduler(lookahead=lookahead)
    add(scheduler, "A", max_tokens=max_tokens)
    (sequence,) = scheduler.pool.of_request("A")
    in_flight, launched, got = [], 0, 0
    while len(scheduler.pool):
        batch = scheduler.schedule()
        if batch.sequences:
            launched += 1
            in_flight.append(batch)
        if len(in_flight) > lookahead or not batch.sequences:
            got += len(give(scheduler, in_flight.pop(0)))
    assert launched == got == max_tokens == len(sequence.output) and not in_flight
    assert (sequence.finish_reason, sequence.stop_reason) == ("length", None)


def test_an_end_seen_late_drops_the_surplus_token_and_frees_at_once():
    scheduler = make_scheduler(lookahead=1)
    add(scheduler, "A", eos_ids=(0,))
    (sequence,) = scheduler.pool.of_request("A")
    first, surplus = scheduler.schedule(), scheduler.schedule()
    assert give(scheduler, first, 0) == [("A", 0)]
    assert sequence.finished and scheduler.kv.pages_reserved == 0 == len(scheduler.pool)
    add(scheduler, "B")
    assert names(scheduler.schedule()) == "B"
    assert give(scheduler, surplus, 33) == []
    assert sequence.output == [0] and sequence.in_flight == 0 == sequence.unread
    scheduler.check()


@pytest.mark.parametrize(
    ("params", "tokens", "reason", "stop_reason"),
    [
        ({}, [5, 0], "stop", None),
        ({"stop_token_ids": [7]}, [5, 7], "stop", 7),
        ({"stop_token_ids": [0]}, [0], "stop", None),
        ({"ignore_eos": True, "max_tokens": 3}, [0, 0, 5], "length", None),
        ({"ignore_eos": True, "stop_token_ids": [7]}, [0, 7], "stop", 7),
        ({"min_tokens": 2}, [0, 0], "stop", None),
        ({"max_tokens": 2}, [5, 0], "stop", None),
        ({"max_tokens": 2}, [0], "stop", None),
        ({"max_tokens": 2}, [5, 5], "length", None),
    ],
)
def test_how_an_answer_ends(params, tokens, reason, stop_reason):
    scheduler = make_scheduler()
    add(scheduler, "A", **params)
    (sequence,) = scheduler.pool.of_request("A")
    for token in tokens:
        assert not sequence.finished
        give(scheduler, scheduler.schedule(), token)
    assert (sequence.finish_reason, sequence.stop_reason) == (reason, stop_reason)
    assert sequence.output == tokens and len(scheduler.pool) == 0


def test_log_probabilities_go_with_their_token():
    scheduler = make_scheduler()
    add(scheduler, "AB")
    wanted = TokenLogprobs(12, -0.5, 1)
    new = scheduler.update(scheduler.schedule(), StepResult((11, 12), {1: wanted}))
    assert [entry for _, _, entry in new] == [None, wanted]


def test_an_abort_leaves_the_others_and_their_seats():
    scheduler = make_scheduler(max_batch_size=3)
    add(scheduler, "ABCD")
    batch = scheduler.schedule()
    scheduler.finish(scheduler.pool.of_request("B")[0], "abort")
    scheduler.check()
    assert [name for name, _ in give(scheduler, batch)] == ["A", "C"]
    again = scheduler.schedule()
    assert names(again) == "ACD" and again.plan.rows[1].seat is batch.plan.rows[2].seat


def test_a_stop_string_outranks_the_length():
    scheduler = make_scheduler()
    add(scheduler, "A", max_tokens=1)
    (sequence,) = scheduler.pool.of_request("A")
    give(scheduler, scheduler.schedule())
    assert sequence.finish_reason == "length"
    scheduler.finish(sequence, "stop", "\n")
    assert (sequence.finish_reason, sequence.stop_reason) == ("stop", "\n")
    scheduler.check()


def test_waiting_are_those_without_a_row_in_flight():
    scheduler = make_scheduler(max_batch_size=2)
    add(scheduler, "ABCD")
    scheduler.schedule()
    assert [sequence.request.request_id for sequence in scheduler.waiting()] == ["C", "D"]
    assert scheduler.statistics()["sequences_running"] == 2 == scheduler.statistics()["sequences_waiting"]


@pytest.mark.parametrize("lookahead", [0, 1])
def test_an_iteration_looks_at_no_more_than_it_can_launch_or_has_in_flight(lookahead):
    """However many wait: a walk over all of them in every iteration would be quadratic over a day."""
    scheduler = make_scheduler(4, num_pages=1000, lookahead=lookahead)
    add(scheduler, map(str, range(500)), prompt=1, max_tokens=2)
    visited, by_arrival = [], scheduler.pool.by_arrival
    scheduler.pool.by_arrival = lambda: (visited.append(sequence) or sequence for sequence in by_arrival())
    in_flight = []
    for _ in range(200):
        visited.clear()
        in_flight.append(scheduler.schedule())
        assert len(in_flight[-1].sequences) == 4 and len(visited) <= 4 * (1 + lookahead) + 1
        if len(in_flight) > lookahead:
            give(scheduler, in_flight.pop(0))


@pytest.mark.parametrize(
    ("switches", "prompt", "max_tokens", "message"),
    [
        ({}, 60, 41, "60 \\+ 41 tokens need 101 pages of 1, but this engine has 100"),
        ({"page_size": 8, "num_pages": 3}, 20, 5, "need 4 pages of 8, but this engine has 3"),
        ({"max_batch_tokens": 8}, 9, 1, "prompt has 9 tokens, but an iteration takes at most 8"),
        ({}, 0, 4, "prompt of 0 tokens"),
        ({}, 4, None, "max_tokens=None"),
    ],
)
def test_what_can_never_run_is_refused(switches, prompt, max_tokens, message):
    scheduler = make_scheduler(**switches)
    with pytest.raises(RequestError, match=message):
        scheduler.add(make_request(prompt, max_tokens))
    assert len(scheduler.pool) == 0


def test_what_just_fits_is_taken():
    for switches, prompt, max_tokens in (
        ({}, 60, 40),
        ({"page_size": 8, "num_pages": 3}, 20, 4),
        ({"max_batch_tokens": 8}, 8, 1),
        ({"max_batch_tokens": 8, "chunked": True}, 9, 1),
    ):
        scheduler = make_scheduler(**switches)
        scheduler.add(make_request(prompt, max_tokens))
        assert names(scheduler.schedule()) == "0"


@pytest.mark.parametrize("wrong", [{"max_batch_size": 0}, {"max_batch_tokens": 0}, {"lookahead": 2}, {"lookahead": -1}])
def test_bad_switches_are_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        make_scheduler(**wrong)
