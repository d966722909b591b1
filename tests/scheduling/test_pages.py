"""The page allocator: all or nothing, nothing twice, nothing lost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_jax.core.errors import EngineError
from orca_jax.scheduling.pages import PageAllocator


def test_takes_all_or_nothing():
    pages = PageAllocator(5)
    first = pages.take(3)
    assert first.tolist() == [0, 1, 2] and first.dtype == np.int32
    assert pages.take(3) is None
    assert pages.num_free == 2
    assert pages.take(2).tolist() == [3, 4]
    assert pages.take(0).tolist() == []


def test_hands_out_the_latest_returns_first_in_their_order():
    pages = PageAllocator(6)
    first, second = pages.take(2), pages.take(3)
    pages.give_back(second)
    pages.give_back(first)
    assert pages.take(4).tolist() == [0, 1, 2, 3]


def test_what_was_handed_out_does_not_change_when_it_is_handed_out_again():
    pages = PageAllocator(4)
    held = pages.take(2)
    pages.give_back(held)
    pages.take(4)[:] = 9
    assert held.tolist() == [0, 1]
    pages.check()


@pytest.mark.parametrize("wrong", [[3], [0, 0], [1, 3]])
def test_refuses_to_free_a_page_twice(wrong):
    pages = PageAllocator(5)
    pages.take(3)
    with pytest.raises(EngineError, match="free already or named twice"):
        pages.give_back(np.array(wrong, np.int32))
    assert pages.num_free == 2


def test_check_finds_a_page_that_is_twice_on_the_stack():
    pages = PageAllocator(4)
    pages._stack[:2] = 3
    with pytest.raises(EngineError, match="4 free pages, but 3 distinct on the stack, 4 marked"):
        pages.check()


@given(st.integers(1, 12), st.lists(st.tuples(st.booleans(), st.integers(0, 6)), max_size=30))
def test_every_page_is_in_one_place(num_pages, moves):
    pages, held = PageAllocator(num_pages), []
    for take, number in moves:
        if take:
            free = pages.num_free
            taken = pages.take(number)
            assert (taken is None) == (number > free)
            held += [] if taken is None else [taken]
        elif held:
            pages.give_back(held.pop(number % len(held)))
        out = [page for some in held for page in some.tolist()]
        assert len(set(out)) == len(out) == num_pages - pages.num_free
        assert set(out) <= set(range(num_pages))
        pages.check()
