"""Seats: who has which pages and which slot."""

import numpy as np
import pytest

from orca_jax.core.errors import ConfigError, EngineError
from orca_jax.core.plan import Seat
from orca_jax.core.sequence import Sequence
from orca_jax.scheduling.kv_manager import KVManager
from orca_jax.testing.requests import make_request


def sequence(prompt=4, max_tokens=4):
    return Sequence(make_request(prompt, max_tokens), 0)


@pytest.mark.parametrize("wrong", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_refuses_sizes_that_hold_nothing(wrong):
    with pytest.raises(ConfigError, match="must be at least 1, got 0"):
        KVManager(*wrong)


@pytest.mark.parametrize(("page_size", "tokens", "pages"), [(1, 7, 7), (4, 7, 2), (4, 8, 2), (4, 9, 3), (16, 1, 1)])
def test_pages_are_rounded_up(page_size, tokens, pages):
    kv = KVManager(20, page_size, 2)
    seat = kv.reserve(sequence(), tokens)
    assert len(seat.pages) == kv.pages_reserved == pages == kv.pages_for(tokens)


def test_a_seat_stays_the_same_object_until_it_needs_pages():
    kv, one = KVManager(10, 4, 2), sequence()
    seat = kv.reserve(one, 8)
    assert kv.reserve(one, 8) is seat and kv.reserve(one, 3) is seat and one.seat is seat
    wider = kv.reserve(one, 9)
    assert wider is one.seat and wider.slot == seat.slot and wider.sampling is seat.sampling
    assert wider.pages[:2].tolist() == seat.pages.tolist() and len(wider.pages) == 3
    kv.check([one])


def test_without_pages_or_slots_nothing_is_taken():
    kv, one, two, three = KVManager(3, 1, 2), sequence(), sequence(), sequence()
    kv.reserve(one, 2)
    assert kv.reserve(two, 2) is None and two.seat is None
    assert kv.reserve(one, 4) is None and len(one.seat.pages) == 2
    assert (kv.pages_reserved, kv.num_seated) == (2, 1)
    kv.reserve(two, 1)
    kv.release(one)
    kv.reserve(one, 1)
    assert kv.reserve(three, 1) is None, "both slots are taken, one page is free"
    kv.check([one, two, three])


def test_release_gives_everything_back_once():
    kv, one = KVManager(4, 2, 1), sequence()
    kv.reserve(one, 8)
    kv.release(one)
    kv.release(one)
    assert one.seat is None and kv.pages_reserved == 0 == kv.num_seated
    assert kv.reserve(sequence(), 8) is not None


def test_pages_used_follow_the_launched_positions():
    kv, one, two = KVManager(10, 2, 2), sequence(), sequence()
    kv.reserve(one, 8)
    kv.reserve(two, 4)
    assert kv.pages_used == 0
    one.num_launched, two.num_launched = 3, 4
    assert kv.pages_used == 2 + 2
    assert kv.statistics() == {
        "num_pages": 10, "page_size": 2, "pages_reserved": 6, "pages_used": 4, "num_slots": 2, "slots_used": 2,
    }  # fmt: skip


def steal_a_page(kv, one, two):
    two.seat = Seat(two.seat.slot, one.seat.pages.copy(), two.seat.sampling)


def share_a_slot(kv, one, two):
    two.seat = Seat(one.seat.slot, two.seat.pages, two.seat.sampling)


def lose_a_page(kv, one, two):
    two.seat = Seat(two.seat.slot, two.seat.pages[:1], two.seat.sampling)


def forget_a_seat(kv, one, two):
    two.seat = None


def write_too_far(kv, one, two):
    two.num_launched = 5


def name_a_page_that_is_free(kv, one, two):
    two.seat = Seat(two.seat.slot, np.array([8, 9], np.int32), two.seat.sampling)


@pytest.mark.parametrize(
    "damage", [steal_a_page, share_a_slot, lose_a_page, forget_a_seat, write_too_far, name_a_page_that_is_free]
)
def test_check_finds(damage):
    kv, one, two = KVManager(10, 2, 3), sequence(), sequence()
    kv.reserve(one, 4)
    kv.reserve(two, 4)
    kv.check([one, two])
    damage(kv, one, two)
    with pytest.raises(EngineError):
        kv.check([one, two])
