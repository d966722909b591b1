"""The request pool: order of arrival, whoever leaves in between."""

import pytest

from orca_jax.core.errors import EngineError, RequestError
from orca_jax.scheduling.pool import RequestPool
from orca_jax.testing.requests import make_request


def keys(pool):
    return [sequence.key for sequence in pool.by_arrival()]


def test_sequences_stand_in_order_of_arrival():
    pool = RequestPool()
    pool.add(make_request(1, request_id="b"))
    pool.add(make_request(1, request_id="a", n=2))
    assert keys(pool) == [("b", 0), ("a", 0), ("a", 1)]
    assert (len(pool), pool.num_requests) == (3, 2)
    pool.check()


def test_removing_leaves_the_order_and_the_siblings():
    pool = RequestPool()
    for name in "abc":
        pool.add(make_request(1, request_id=name, n=2))
    pool.remove(pool.of_request("b")[0])
    pool.remove(pool.of_request("a")[1])
    assert keys(pool) == [("a", 0), ("b", 1), ("c", 0), ("c", 1)]
    pool.remove(pool.of_request("b")[0])
    assert pool.of_request("b") == [] and pool.num_requests == 2
    pool.add(make_request(1, request_id="b"))
    assert keys(pool)[-1] == ("b", 0), "an id may come back, as the youngest"
    pool.check()


def test_an_id_in_use_is_refused_and_nothing_changes():
    pool = RequestPool()
    pool.add(make_request(1, request_id="a"))
    with pytest.raises(RequestError, match="'a' is in use"):
        pool.add(make_request(2, request_id="a"))
    assert keys(pool) == [("a", 0)]


def test_check_finds_the_ended_and_the_lost():
    pool = RequestPool()
    pool.add(make_request(1, request_id="a"))
    (sequence,) = pool.of_request("a")
    sequence.finish_reason = "stop"
    with pytest.raises(EngineError, match="has ended"):
        pool.check()
    sequence.finish_reason = None
    pool._sequences.clear()
    with pytest.raises(EngineError, match="0 sequences in order, 1 by request"):
        pool.check()
