"""What the host packs is what the device unpacks, whatever the mixture of rows."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from orca_jax.core.plan import Row, Sampling, Seat, StepPlan
from orca_jax.execution.buckets import Bucket
from orca_jax.execution.packing import Column, Needs, Packer, needs_of, token_rows, unpack

BUCKET, PAGES, SLOTS = Bucket(16, 6), 4, 9


@st.composite
def plans(draw):
    slots = draw(st.lists(st.integers(0, SLOTS - 1), unique=True, max_size=BUCKET.rows))
    budget = BUCKET.tokens - len(slots)
    rows = []
    for slot in slots:
        count = 1 + draw(st.integers(0, budget))
        budget -= count - 1
        pages = np.array(draw(st.lists(st.integers(0, 99), min_size=1, max_size=PAGES)), np.int32)
        sampling = Sampling(
            temperature=draw(st.sampled_from([0.0, 0.5, 1.0])),
            top_p=draw(st.sampled_from([0.25, 1.0])),
            seed=draw(st.integers(-(2**63), 2**63 - 1)),
            prompt_len=draw(st.integers(1, 9)),
            logprobs=draw(st.sampled_from([None, 0, 3])),
        )
        known = count > 1 or draw(st.booleans())
        tokens = tuple(draw(st.lists(st.integers(0, 500), min_size=count, max_size=count))) if known else ()
        rows.append(Row(Seat(slot, pages, sampling), draw(st.integers(0, 50)), count, tokens, draw(st.booleans())))
    return StepPlan(tuple(rows))


@given(plans())
@settings(max_examples=60)
def test_round_trip(plan):
    packer = Packer(SLOTS, PAGES)
    assert packer.new_seats(plan) == [row.seat for row in plan.rows]
    assert packer.new_seats(plan) == []
    packed, order = packer.pack(plan, BUCKET)
    table = jax.tree.map(np.asarray, unpack(jax.numpy.asarray(packed), BUCKET, PAGES))
    rows = [plan.rows[i] for i in order]
    assert sorted(order) == list(range(len(plan.rows)))
    assert [row.count > 1 for row in rows] == sorted(row.count > 1 for row in rows)
    assert table.num_rows[0] == len(rows)
    needs = Needs(0)
    tokens = []
    for i, row in enumerate(rows):
        s = row.seat.sampling
        line = table.columns[i]
        assert line[Column.SLOT] == row.seat.slot
        assert (int(np.uint32(line[Column.SEED_HIGH])) << 32 | int(np.uint32(line[Column.SEED_LOW]))) == s.seed % 2**64
        assert line[Column.TEMPERATURE : Column.TEMPERATURE + 1].view(np.float32)[0] == np.float32(s.temperature)
        assert line[Column.TOP_P : Column.TOP_P + 1].view(np.float32)[0] == np.float32(s.top_p)
        assert line[Column.PROMPT_LEN] == s.prompt_len
        assert (line[Column.START], line[Column.COUNT], line[Column.SAMPLES]) == (row.start, row.count, row.samples)
        assert table.kv_lens[i] == row.start + row.count
        assert table.page_table[i, : len(row.seat.pages)].tolist() == row.seat.pages.tolist()
        tokens += row.tokens or (-1,)
        needs |= needs_of(s) if row.samples else Needs(0)
    assert table.tokens[: len(tokens)].tolist() == tokens
    assert table.needs == needs
    assert np.all(table.columns[len(rows) :] == 0)


@given(plans())
@settings(max_examples=40)
def test_every_token_finds_its_row_and_position(plan):
    packer = Packer(SLOTS, PAGES)
    packer.new_seats(plan)
    packed, order = packer.pack(plan, BUCKET)
    row, position, real = map(np.asarray, token_rows(unpack(jax.numpy.asarray(packed), BUCKET, PAGES)))
    expected = [(line, plan.rows[i].start + j) for line, i in enumerate(order) for j in range(plan.rows[i].count)]
    n = len(expected)
    assert list(zip(row[:n].tolist(), position[:n].tolist(), strict=True)) == expected
    assert real.tolist() == [True] * n + [False] * (BUCKET.tokens - n)


def test_a_new_seat_in_an_old_slot_replaces_all_of_it():
    packer = Packer(SLOTS, PAGES)
    full = Seat(3, np.array([7, 8, 9, 10], np.int32), Sampling(temperature=1.0, seed=5))
    short = Seat(3, np.array([2], np.int32), Sampling())
    packer.new_seats(StepPlan((Row(full, 0, 1, (1,), True),)))
    plan = StepPlan((Row(short, 0, 1, (1,), True),))
    assert packer.new_seats(plan) == [short]
    table = unpack(jax.numpy.asarray(packer.pack(plan, BUCKET)[0]), BUCKET, PAGES)
    assert table.page_table[0].tolist() == [2, 0, 0, 0]
    assert int(table.needs) == 0
