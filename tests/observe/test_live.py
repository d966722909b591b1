"""What the live page is told: everything once, in order, bounded, and never a word of a prompt."""

import itertools
import json

import pytest

from orca_jax.core.events import IterationDone, IterationLaunched, RequestArrived, RowRecord, SequenceFinished
from orca_jax.core.sequence import Phase
from orca_jax.observe import live
from orca_jax.observe.facts import Facts
from orca_jax.observe.ledger import Ledger
from orca_jax.observe.live import LiveFeed

FACTS = Facts("tiny", 8, 100, 16, 512)


class Play:
    """A ledger and its feed, with an engine that is a list of names: each iteration runs them all."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.feed = LiveFeed(self.ledger, FACTS)
        self.number = 0
        self.starts: dict[str, int] = {}

    def arrive(self, *names: str) -> None:
        for name in names:
            self.ledger(RequestArrived(name, float(self.number), 4, 1000, 1))

    def iterate(self, *names: str, waiting: tuple[str, ...] = (), times: int = 1) -> None:
        for _ in range(times):
            rows = []
            for name in names:
                start = self.starts.get(name, 0)
                phase, count = (Phase.INCREMENT, 1) if start else (Phase.INITIATION, 4)
                rows.append(RowRecord(name, 0, phase, start, count))
                self.starts[name] = start + count
            queue = tuple((name, 0) for name in waiting)
            self.ledger(IterationLaunched(self.number, float(self.number), tuple(rows), queue, 7, 5, 100))
            self.ledger(IterationDone(self.number, self.number + 0.5, len(rows), len(rows), 0.1, 8, 8, 0, 7))
            self.number += 1

    def end(self, name: str, reason: str = "length") -> None:
        self.ledger(SequenceFinished(name, 0, float(self.number), reason, self.ledger.lives[name, 0].num_output))


@pytest.fixture
def play() -> Play:
    return Play()


def test_a_first_look_gives_everything_and_the_next_only_news(play):
    play.arrive("a", "b")
    play.iterate("a", waiting=("b",))
    play.iterate("a", "b", times=2)
    first = play.feed.since()
    assert first["engine"]["max_num_seqs"] == 8 and (first["running"], first["waiting"]) == (2, 0)
    assert [column[0] for column in first["columns"]] == [0, 1, 2]
    assert [column[-2:] for column in first["columns"]] == [[[0, 1], "41"], [[0, 1], "24"], [[0, 1], "22"]]
    assert first["columns"][0][1:9] == [0.0, 0.5, 4, 8, 1, 7, 5, 1]
    play.iterate("a", "b", times=2)
    news = play.feed.since(first["cursor"])
    assert news["engine"] is None and news["run"] == first["run"] and news["skipped"] == 0
    assert [column[0] for column in news["columns"]] == [3, 4]
    assert [column[-2:] for column in news["columns"]] == [[[0, 1], "22"], [None, None]], "unchanged is not repeated"
    assert play.feed.since(news["cursor"])["columns"] == []


def test_lanes_carry_the_numbers_of_their_sequence(play):
    play.arrive("a")
    play.iterate("a", times=3)
    play.end("a", "stop")
    (lane,) = play.feed.since()["lanes"]
    assert lane == [0, "a", 0, 4, 1000, 3, "stop", 0.0, 0.5, 1.0, 3.0]


def test_one_that_ended_in_no_column_is_told_all_the_same(play):
    play.arrive("a", "b")
    play.iterate("a", waiting=("b",))
    cursor = play.feed.since()["cursor"]
    play.end("b", "abort")
    assert [lane[1:7:5] for lane in play.feed.since(cursor)["lanes"]] == [["b", "abort"]]
    play.iterate("a")
    later = play.feed.since(cursor)
    assert {lane[1] for lane in later["lanes"]} == {"a", "b"}
    assert [lane[1] for lane in play.feed.since(later["cursor"])["lanes"]] == []


def test_answers_are_bounded(play):
    names = [str(number) for number in range(100)]
    play.arrive(*names)
    play.iterate("0", waiting=tuple(names[1:]), times=500)
    first = play.feed.since()
    assert len(first["columns"]) == live.MOST_AT_FIRST and first["columns"][-1][0] == 499
    assert len(first["columns"][0][-2]) == 1 + live.MOST_WAITING
    news = play.feed.since(200)
    assert len(news["columns"]) <= live.MOST_COLUMNS and news["skipped"] == 300 - len(news["columns"])
    numbers = [column[0] for column in news["columns"]]
    assert {b - a for a, b in itertools.pairwise(numbers)} == {5}, "evenly thinned"


def test_a_cursor_from_elsewhere_starts_over(play):
    play.arrive("a")
    play.iterate("a")
    for cursor in (-1, 5, 10**30):
        assert play.feed.since(cursor)["engine"] is not None


def test_it_is_json_and_ids_are_cut(play):
    play.arrive("x" * 5000)
    play.iterate("x" * 5000)
    text = json.dumps(play.feed.since(), allow_nan=False)
    assert "x" * live.LONGEST_ID in text and "x" * (live.LONGEST_ID + 1) not in text
