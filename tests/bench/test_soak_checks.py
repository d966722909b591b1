"""The soak's judge: what it must catch, in hand-made answers and in a server's counters."""

import pytest

from orca_jax.bench.served import read_metrics
from orca_jax.bench.soak import make_secrets
from orca_jax.bench.soak_checks import Checker, collect
from orca_jax.bench.soak_run import IDLE, wrong_counters
from orca_jax.bench.wire import Events

SECRETS = ["alpha", "beta"]
WHOLE = {"index": 0, "text": "alpha, alpha", "token_ids": [1, 2, 3], "finish_reason": "length"}


@pytest.fixture
def checker():
    return Checker(SECRETS, {"a": collect({}, [WHOLE])})


def found(checker):
    return {kind: checker.counts[kind] for kind in ("leaks", "differs", "own secret seen")}


def test_the_usual_answer_whole_and_in_chunks(checker):
    checker.finished(0, "a", collect({}, [WHOLE]))
    first = {"index": 0, "text": "alpha,", "token_ids": [1], "finish_reason": None}
    rest = {"index": 0, "text": " alpha", "token_ids": [2, 3], "finish_reason": "length"}
    checker.finished(0, "a", collect(collect({}, [first]), [rest]))
    checker.left(0, "a", collect({}, [first]))
    checker.left(0, "a", {})
    assert found(checker) == {"leaks": 0, "differs": 0, "own secret seen": 3}
    assert checker.counts["tokens"] == 6


@pytest.mark.parametrize(
    ("change", "kind"),
    [({"text": "alpha, alphb"}, "differs"), ({"token_ids": [1, 2]}, "differs"), ({"finish_reason": "stop"}, "differs"),
     ({"text": "alpha beta"}, "leaks"), ({"index": 1}, "differs")],
)  # fmt: skip
def test_whatever_else_is_a_violation(checker, change, kind):
    checker.finished(0, "a", collect({}, [WHOLE | change]))
    assert found(checker)[kind] == 1
    assert checker.examples


@pytest.mark.parametrize(
    ("shown", "kind"), [({"text": "al", "token_ids": [2]}, "differs"), ({"text": "beta", "token_ids": [1]}, "leaks"),
                        ({"text": "alpha", "token_ids": [1], "index": 3}, "differs")]
)  # fmt: skip
def test_what_was_shown_before_a_client_left_counts_too(checker, shown, kind):
    checker.left(0, "a", collect({}, [{"index": 0, "finish_reason": None, **shown}]))
    assert found(checker)[kind] == 1


def test_no_secret_is_part_of_another():
    secrets = make_secrets(64, 0)
    assert len({secret for secret in secrets for other in secrets if secret in other and secret != other}) == 0
    assert len(set(secrets)) == 64


SEEN = {"answers": 5, "answers asked": 9, "tokens": 50}
RIGHT = IDLE | {"request_success length": 6, "request_success abort": 3, "generation_tokens": 55}


def test_counters_within_what_the_clients_saw():
    assert wrong_counters(RIGHT, SEEN) == []


@pytest.mark.parametrize(
    "change",
    [{"kv_pages_reserved": 1}, {"num_requests_running": 1}, {"compiles_after_warmup": 1}, {"generation_tokens": 49},
     {"request_success length": 4}, {"request_success length": 10}, {"request_success error": 1},
     {"request_success abort": 30}],
    ids=str,
)  # fmt: skip
def test_counters_that_cannot_be_right(change):
    assert len(wrong_counters(RIGHT | change, SEEN)) >= 1


def test_metrics_are_read_by_name_and_reason():
    text = (
        "# HELP orca_jax:kv_pages_reserved Pages.\n"
        'orca_jax:kv_pages_reserved{engine="0",model_name="m"} 3.0\n'
        'orca_jax:generation_tokens_total{engine="0",model_name="m"} 1.2e+02\n'
        'orca_jax:request_success_total{engine="0",finished_reason="length",model_name="m"} 7.0\n'
    )
    assert read_metrics(text) == {"kv_pages_reserved": 3, "generation_tokens": 120, "request_success length": 7}


def test_events_may_arrive_in_any_pieces():
    data = b'data: {"a": 1}\n\n: still working\n\ndata: [DONE]\n\n'
    for size in range(1, len(data)):
        events, got = Events(), []
        for start in range(0, len(data), size):
            got += events.feed(data[start : start + size])
        assert got == [b'{"a": 1}', b"[DONE]"]
