"""What the live page is told: the latest iterations, who was in them as what, and the numbers beside them.

Nothing is encoded before somebody asks. Of requests there are ids and numbers, never text.
"""

import secrets
from itertools import islice
from typing import Any

from orca_jax.core.events import IterationLaunched
from orca_jax.core.sequence import Phase
from orca_jax.observe.facts import Facts
from orca_jax.observe.ledger import BUCKETS, Column, Key, Ledger
from orca_jax.observe.life import Life

CODES = {Phase.WAITING: "1", Phase.INCREMENT: "2", Phase.CHUNK: "3", Phase.INITIATION: "4"}
MOST_COLUMNS = 60  # of one answer; a page that asks four times a second is shown up to 240 iterations of it
MOST_AT_FIRST = 240
MOST_WAITING = 64  # of one column
MOST_ENDED = 64  # of one answer, beside those that its columns name
LONGEST_ID = 64

Json = dict[str, Any]


class LiveFeed:
    """Reads a ledger on behalf of pages. `since` may be called from any thread, and costs the engine one short lock."""

    def __init__(self, ledger: Ledger, facts: Facts):
        self._ledger = ledger
        self._facts = facts
        self._run = secrets.token_hex(4)

    def since(self, cursor: int = 0) -> Json:
        """What is new since `cursor` iterations had come back, as plain JSON; 0 is a first look.

        Ask with its "cursor" the next time; a page that knows another "run" starts over. A first look gives the latest
        `MOST_AT_FIRST` iterations. Later ones give at most `MOST_COLUMNS`: of more, every second, third, ...; "skipped"
        says how many are left out.

        "columns" hold for each iteration [number, launched, done (seconds), tokens, tokens of the compiled shape, new
        tokens, pages reserved, pages used, sequences waiting, lanes, phases]; `lanes` (a list of numbers) and `phases`
        (`CODES`, as one string of digits) are null where they are as in the column before.

        "lanes" describe the sequences that are in the columns or have ended since: [lane, request id, which of its
        answers, prompt tokens, most new tokens, new tokens, finish reason, seconds in the queue, to the first token, per
        token, in all]; what is not known yet is null.
        """
        ledger = self._ledger
        reading = ledger.read()
        with ledger.lock:
            done = ledger.num_iterations
            cursor = cursor if 0 <= cursor <= done else 0
            latest = _latest(ledger, min(done - cursor, len(ledger.columns) if cursor else MOST_AT_FIRST))
        columns = latest[:: -(-len(latest) // MOST_COLUMNS)] if cursor and latest else latest
        cells = [_Cells(launched) for launched, _ in columns]
        keys = dict.fromkeys(key for of_column in cells for key in of_column.keys)
        with ledger.lock:
            lives = {key: life for key in keys if (life := ledger.lives.get(key) or ledger.ended.get(key)) is not None}
            lanes = [_lane(life) for life in dict.fromkeys((*lives.values(), *_ended(ledger, cursor)))]
        return {
            "run": self._run,
            "cursor": done,
            "skipped": done - cursor - len(columns) if cursor else 0,
            "engine": None if cursor else self._about(),
            "running": reading.running,
            "waiting": reading.waiting,
            "pages_reserved": reading.pages_reserved,
            "pages_used": reading.pages_used,
            "prompt_tokens": reading.counters.get("prompt_tokens", 0),
            "generation_tokens": reading.counters.get("generation_tokens", 0),
            "finished": sum(reading.finished.values()),
            "compiles": reading.counters.get("compiles_after_warmup", 0),
            "ttft": reading.histograms["time_to_first_token_seconds"].counts,
            "tbt": reading.histograms["inter_token_latency_seconds"].counts,
            "lanes": lanes,
            "columns": _columns(columns, cells, {key: life.number for key, life in lives.items()}),
        }

    def _about(self) -> Json:
        facts = self._facts
        return {
            "model": facts.model,
            "max_num_seqs": facts.max_num_seqs,
            "num_pages": facts.num_pages,
            "page_size": facts.page_size,
            "max_model_len": facts.max_model_len,
            "ttft_bounds": BUCKETS["time_to_first_token_seconds"],
            "tbt_bounds": BUCKETS["inter_token_latency_seconds"],
        }


def _latest(ledger: Ledger, number: int) -> list[Column]:
    return list(islice(reversed(ledger.columns), number))[::-1]


def _ended(ledger: Ledger, cursor: int) -> list[Life]:
    """Those that have ended since `cursor` without being in any column after it: a page would believe them alive."""
    latest = islice(reversed(ledger.ended.values()), MOST_ENDED)
    return [life for life in latest if life.ended_at >= cursor] if cursor else []


def _lane(life: Life) -> list[Any]:
    times = (
        None if life.scheduled is None else life.scheduled - life.arrived,
        life.time_to_first_token,
        life.time_per_output_token,
        None if life.ended is None else life.ended - life.arrived,
    )
    rounded = [None if seconds is None else round(seconds, 6) for seconds in times]
    return [
        life.number, life.request_id[:LONGEST_ID], life.index, life.prompt_len, life.max_tokens, life.num_output,
        life.reason, *rounded,
    ]  # fmt: skip


class _Cells:
    """Who was in an iteration, as what; the rows before those that wait."""

    __slots__ = ("keys", "phases")

    def __init__(self, launched: IterationLaunched):
        waiting = launched.waiting[:MOST_WAITING]
        self.keys: list[Key] = [row[:2] for row in launched.rows]
        self.keys += waiting
        self.phases = [row[2] for row in launched.rows] + [Phase.WAITING] * len(waiting)

    def same(self, other: "_Cells | None") -> bool:
        return other is not None and self.keys == other.keys and self.phases == other.phases

    def encoded(self, lanes: dict[Key, int]) -> tuple[list[int], str]:
        known = [(lanes[key], CODES[phase]) for key, phase in zip(self.keys, self.phases, strict=True) if key in lanes]
        return [lane for lane, _ in known], "".join(code for _, code in known)


def _columns(columns: list[Column], cells: list[_Cells], lanes: dict[Key, int]) -> list[list[Any]]:
    encoded: list[list[Any]] = []
    before: _Cells | None = None
    for (launched, done), inside in zip(columns, cells, strict=True):
        who, phases = (None, None) if inside.same(before) else inside.encoded(lanes)
        before = inside
        encoded.append([
            launched.iteration, round(launched.time, 6), round(done.time, 6), sum([row[4] for row in launched.rows]),
            done.shape_tokens, done.num_kept, launched.pages_reserved, launched.pages_used, len(launched.waiting), who,
            phases,
        ])  # fmt: skip
    return encoded
