"""The sampler against sorting, counting and plain NumPy; and that nobody's sample depends on the neighbours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orca_jax.core.plan import Row, Sampling, Seat, StepPlan
from orca_jax.execution import penalties
from orca_jax.execution.buckets import Bucket
from orca_jax.execution.constraints import Constraints, allocate_constraints, constraint_line, write_line
from orca_jax.execution.packing import Packer, unpack
from orca_jax.execution.sampler import (
    NOT_A_NUMBER,
    NOTHING_ALLOWED,
    Sampled,
    above_min_p,
    argmax,
    largest_threshold,
    ordered,
    sample,
    within_top_k,
    within_top_p,
)

V, R, SLOTS, LENGTH = 50, 8, 8, 32
run = jax.jit(sample)


def sampled(logits, samplings, histories=None, prompt_lens=None) -> Sampled:
    """One draw for each row of `logits`; a row's `histories` are its tokens so far (default: one token)."""
    histories = histories or [[1]] * len(samplings)
    seats = [Seat(i, np.zeros(1, np.int32), s) for i, s in enumerate(samplings)]
    rows = [Row(s, len(h) - 1, 1, (h[-1],), True) for s, h in zip(seats, histories, strict=True)]
    packer = Packer(SLOTS, 1)
    plan = StepPlan(tuple(rows))
    packer.new_seats(plan)
    table = unpack(jnp.asarray(packer.pack(plan, Bucket(R, R))[0]), Bucket(R, R), 1)
    history = np.zeros((SLOTS, LENGTH), np.int32)
    constraints: Constraints = allocate_constraints(SLOTS, V)
    for i, h in enumerate(histories):
        history[i, : len(h)] = h
        constraints = write_line(constraints, i, constraint_line(samplings[i], V))
    padded = np.zeros((R, V), np.float32)
    padded[: len(logits)] = logits
    return jax.tree.map(np.asarray, run(jnp.asarray(padded), table, jnp.asarray(history), constraints))


def logits_of(seed, rows=R, ties=False):
    x = np.random.default_rng(seed).normal(size=(rows, V)).astype(np.float32) * 3
    return np.round(x) if ties else x


@given(st.integers(0, 10**6), st.booleans())
@settings(max_examples=20)
def test_greedy_is_the_first_largest(seed, ties):
    x = logits_of(seed, ties=ties)
    assert np.asarray(argmax(jnp.asarray(x))).tolist() == x.argmax(-1).tolist()


def test_logits_that_are_not_numbers_are_told_apart_from_tokens():
    x = logits_of(0)
    x[2, 7] = np.nan
    assert np.asarray(argmax(jnp.asarray(x)))[2] == NOT_A_NUMBER


@given(st.integers(0, 10**6), st.booleans(), st.integers(1, V + 5))
@settings(max_examples=25)
def test_top_k_keeps_what_sorting_would(seed, ties, k):
    x = logits_of(seed, ties=ties)
    kept = np.asarray(within_top_k(jnp.asarray(x), jnp.ones(x.shape, bool), jnp.full(R, k)))
    edge = np.sort(x, axis=-1)[:, ::-1][:, min(k, V) - 1]
    assert (kept == (x >= edge[:, None])).all()


@given(st.integers(0, 10**6), st.booleans(), st.floats(0.01, 0.99))
@settings(max_examples=25)
def test_top_p_keeps_the_smallest_likeliest_set(seed, ties, p):
    x = logits_of(seed, ties=ties)
    kept = np.asarray(within_top_p(jnp.asarray(x), jnp.ones(x.shape, bool), jnp.full(R, p, jnp.float32)))
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    probability = e / e.sum(-1, keepdims=True)
    for line, keep in zip(probability, kept, strict=True):
        assert line[keep].sum() >= p - 1e-5
        lowest = line[keep].min()
        assert line[line > lowest * (1 + 1e-6)].sum() < p + 1e-5  # without the edge it would not be enough
        assert keep[line >= lowest].all()


def test_min_p_compares_with_the_likeliest():
    x = logits_of(3)
    kept = np.asarray(above_min_p(jnp.asarray(x), jnp.full(R, 0.1, jnp.float32)))
    assert (kept == (np.exp(x - x.max(-1, keepdims=True)) >= 0.1)).all()
    assert np.asarray(above_min_p(jnp.asarray(x), jnp.zeros(R))).all()


@given(st.lists(st.floats(width=32, allow_nan=False, allow_subnormal=False), min_size=2, max_size=20))
def test_ordered_integers_sort_like_the_floats(values):
    x = np.array([values], np.float32)
    order = np.asarray(ordered(jnp.asarray(x)))[0]
    for a in range(len(values)):
        for b in range(len(values)):
            if x[0, a] < x[0, b]:
                assert order[a] < order[b]


def test_the_threshold_is_exact():
    x = jnp.asarray(np.array([[1, 2, 3, 4]], np.uint32))
    for k, expected in ((1, 4), (2, 3), (4, 1)):
        assert int(largest_threshold(x, jnp.ones((1, 4)), jnp.full(1, float(k)))[0]) == expected


def test_top_k_of_one_and_a_tiny_top_p_are_greedy():
    x = logits_of(5)
    for s in (
        Sampling(temperature=1.0, top_k=1),
        Sampling(temperature=1.0, top_p=1e-6),
        Sampling(temperature=1.0, min_p=1.0),
    ):
        assert sampled(x, [s] * R).token.tolist() == x.argmax(-1).tolist()


def test_samples_follow_the_distribution():
    x = np.array([[0.0, 1.0, 2.0] + [-np.inf] * (V - 3)], np.float32)
    counts = np.zeros(3)
    for first in range(0, 1600, R):
        samplings = [Sampling(temperature=1.0, seed=first + i) for i in range(R)]
        counts += np.bincount(sampled(np.repeat(x, R, 0), samplings).token, minlength=3)
    expected = np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum()
    assert np.abs(counts / 1600 - expected).max() < 0.04


@given(st.integers(0, 10**6), st.permutations(list(range(R))))
@settings(max_examples=10)
def test_neither_place_nor_company_changes_a_sample(seed, order):
    x = logits_of(seed)
    samplings = [
        Sampling(temperature=[0.0, 0.7, 1.5][i % 3], top_k=[0, 5][i % 2], top_p=[1.0, 0.8][i // 4], seed=seed + i,
                 logprobs=[None, 2][i % 2], presence_penalty=[0.0, 0.5][i // 5])
        for i in range(R)
    ]  # fmt: skip
    together = sampled(x, samplings).token
    moved = sampled(x[order], [samplings[i] for i in order]).token
    assert moved.tolist() == together[order].tolist()
    for i in range(R):
        assert sampled(x[i : i + 1], [samplings[i]]).token[0] == together[i]


def test_seed_index_and_position_each_change_the_draw():
    x = np.zeros((R, V), np.float32)
    base = Sampling(temperature=1.0, seed=1)
    variants = [base, Sampling(temperature=1.0, seed=2), Sampling(temperature=1.0, seed=1 + 2**32),
                Sampling(temperature=1.0, seed=1, index=1)]  # fmt: skip
    tokens = sampled(x, [*variants, base], [[1], [1], [1], [1], [1, 1]]).token[:5]
    assert len(set(tokens.tolist())) == 5
    assert sampled(x, [base]).token[0] == tokens[0]


def test_log_probabilities_are_those_of_the_raw_logits():
    x = logits_of(9)
    s = Sampling(temperature=0.7, seed=3, logprobs=4, presence_penalty=1.0)
    got = sampled(x, [s] * R)
    expected = np.asarray(jax.nn.log_softmax(jnp.asarray(x), -1))
    for i in range(R):
        token = got.token[i]
        assert got.logprob[i] == pytest.approx(expected[i, token], abs=1e-5)
        assert got.rank[i] == 1 + (expected[i] > expected[i, token]).sum()
        best = np.argsort(-expected[i], kind="stable")[:20]
        assert got.top_tokens[i].tolist() == best.tolist()
        assert got.top_logprobs[i] == pytest.approx(expected[i, best], abs=1e-5)


@given(st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=LENGTH), min_size=1, max_size=R), st.data())
@settings(max_examples=15)
def test_tokens_are_counted_block_by_block_wherever_asked(histories, data):
    asks = [data.draw(st.booleans()) for _ in histories]
    prompts = [data.draw(st.integers(0, len(h))) for h in histories]
    seats = [
        Seat(i, np.zeros(1, np.int32), Sampling(presence_penalty=float(asks[i]), prompt_len=prompts[i]))
        for i in range(len(histories))
    ]
    rows = [Row(s, len(h) - 1, 1, (h[-1],), True) for s, h in zip(seats, histories, strict=True)]
    packer, plan = Packer(SLOTS, 1), StepPlan(tuple(rows))
    packer.new_seats(plan)
    table = unpack(jnp.asarray(packer.pack(plan, Bucket(R, R))[0]), Bucket(R, R), 1)
    tokens = np.full((SLOTS, LENGTH), 7, np.int32)  # behind the end: never counted
    for i, h in enumerate(histories):
        tokens[i, : len(h)] = h
    present, generated = map(np.asarray, count_in_blocks(table, jnp.asarray(tokens)))
    for i, h in enumerate(histories):
        whole, output = (np.bincount(part, minlength=V) * asks[i] for part in (h, h[prompts[i] :] or [0]))
        assert (present[i] == whole).all()
        assert (generated[i] == output).all() or (prompts[i] == len(h) and not generated[i].any())
    assert not present[len(histories) :].any()


def count_in_blocks(table, tokens):
    """Blocks of 5 positions: several of them, the last one cut short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(penalties, "BLOCK", 5)
        return penalties.count_tokens(table, tokens, V)


def test_penalties_match_counting_by_hand():
    x = logits_of(11)
    history = [3, 3, 4, 5, 5, 5]  # two prompt tokens, four of output
    s = Sampling(presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=1.3, prompt_len=2)
    expected = x[0].astype(np.float64).copy()
    for token in set(history):
        expected[token] = expected[token] / 1.3 if expected[token] > 0 else expected[token] * 1.3
    for token in (4, 5):
        expected[token] -= 0.25 * history[2:].count(token) + 0.5
    for shift in range(5):  # move the winner around, so that the penalised tokens matter
        y = x[:1].copy()
        y[0, 3 + shift] += 6
        want = expected.copy()
        raised = 3 + shift
        base = float(y[0, raised])
        if raised in history:
            base = base / 1.3 if base > 0 else base * 1.3
        if raised in (4, 5):
            base -= 0.25 * history[2:].count(raised) + 0.5
        want[raised] = base
        assert sampled(y, [s], [history]).token[0] == want.argmax()


@pytest.mark.parametrize(
    ("sampling", "history", "banned"),
    [
        (Sampling(allowed_token_ids=(7, 33, 49)), [1], set(range(V)) - {7, 33, 49}),
        (Sampling(bad_words=((9,),)), [1], {9}),
        (Sampling(bad_words=((4, 9),)), [1, 4], {9}),
        (Sampling(bad_words=((4, 9),)), [4, 1], set()),
        (Sampling(bad_words=((4, 5, 6, 9),)), [4, 5, 6], {9}),
        (Sampling(bad_words=((4, 5, 6, 9),)), [5, 6], set()),
        (Sampling(min_tokens=3, stop_ids=(2, 8), prompt_len=1), [1, 5, 5], {2, 8}),
        (Sampling(min_tokens=3, stop_ids=(2, 8), prompt_len=1), [1, 5, 5, 5], set()),
    ],
)
def test_constraints_ban_exactly_what_they_name(sampling, history, banned):
    for token in range(V):
        x = np.zeros((1, V), np.float32)
        x[0, token] = 9.0
        chosen = sampled(x, [sampling], [history]).token[0]
        assert (chosen == token) == (token not in banned)
        assert chosen not in banned


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_where_every_token_is_forbidden_none_is_made_up(temperature):
    s = Sampling(temperature=temperature, top_k=3, top_p=0.9, allowed_token_ids=(5,), bad_words=((5, 5),))
    assert sampled(logits_of(17), [s, s], [[1, 5], [5, 1]]).token.tolist()[:2] == [NOTHING_ALLOWED, 5]
    x = logits_of(17)
    x[:, 5] = np.nan
    assert sampled(x, [s, s], [[1, 5], [5, 1]]).token.tolist()[:2] == [NOT_A_NUMBER, NOT_A_NUMBER]


def test_biases_add_to_the_logits():
    x = logits_of(13)
    s = Sampling(logit_bias=((5, 100.0), (6, -100.0)))
    assert sampled(x, [s, Sampling()]).token.tolist()[:2] == [5, x[1].argmax()]
