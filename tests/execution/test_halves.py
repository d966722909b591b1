"""The step in two halves: the same tokens as in one piece, nothing that a mask forbids, nothing to compile later."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orca_jax.core.errors import EngineError
from orca_jax.core.plan import NOTHING_ALLOWED, Row, Sampling, Seat, StepPlan
from orca_jax.execution.buckets import Bucket, bucket_list, thinned
from orca_jax.execution.forward import AttentionOptions
from orca_jax.execution.local import LocalExecutor
from orca_jax.execution.options import ExecutorOptions
from orca_jax.execution.programs import COMPILES
from orca_jax.models.config import DecoderConfig
from orca_jax.models.dummy import fill_randomly
from orca_jax.models.load import abstract_model
from orca_jax.models.sharding import tensor_mesh

V, WORDS = 70, 3
CONFIG = DecoderConfig(
    family="llama", vocab_size=V, hidden_size=32, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=16,
    intermediate_size=32, max_position_embeddings=32,
)  # fmt: skip
BUCKETS = (Bucket(4, 4), Bucket(16, 4))


def new_executor(halves=BUCKETS[1:], uniform=False, mesh=None, buckets=BUCKETS):
    model = fill_randomly(abstract_model(CONFIG, "float32"), "float32", 0, lambda *_: None)
    attention = AttentionOptions("xla", 4, uniform=uniform, mesh=mesh)
    executor = LocalExecutor(model, ExecutorOptions(buckets, 4, 32, 32, attention, "float32", halves))
    if halves:
        executor.warm_up()
    return executor


@pytest.fixture(scope="module")
def executor():
    return new_executor()


def rows_of(samplings, prompts=((1, 2, 3), (4,), (5, 6), (7, 8, 9, 10))):
    seats = [Seat(i, np.arange(8 * i, 8 * i + 8, dtype=np.int32), s) for i, s in enumerate(samplings)]
    return [Row(seat, 0, len(prompt), prompt, True) for seat, prompt in zip(seats, prompts, strict=False)]


def mask_of(tokens):
    bits = np.zeros(WORDS * 32, np.uint8)
    bits[list(tokens)] = 1
    return np.packbits(bits, bitorder="little").view(np.int32)


SAMPLINGS = (
    Sampling(prompt_len=3, logprobs=5),
    Sampling(prompt_len=1, temperature=0.9, top_k=7, top_p=0.8, seed=11, logprobs=3),
    Sampling(prompt_len=2, repetition_penalty=1.4, logit_bias=((5, 4.0),), allowed_token_ids=tuple(range(2, 65, 3))),
    Sampling(prompt_len=4, temperature=1.3, min_p=0.05, seed=12, min_tokens=2, stop_ids=(0,), bad_words=((3,),)),
)


def test_without_masks_of_its_own_a_row_gets_what_the_whole_step_gives(executor):
    before = COMPILES.count
    executor.launch(StepPlan(tuple(rows_of(SAMPLINGS))))
    whole = executor.collect()
    executor.launch(StepPlan(tuple(rows_of(SAMPLINGS))), dict)
    halves = executor.collect()
    assert halves.tokens == whole.tokens
    for i, entry in whole.logprobs.items():
        assert halves.logprobs[i].logprob == pytest.approx(entry.logprob, abs=1e-5)
        assert [token for token, _ in halves.logprobs[i].top] == [token for token, _ in entry.top]
    assert COMPILES.count == before and executor.statistics()["compiles_after_warm_up"] == 0
    assert executor.statistics()["programs"] == 2 + 2 + 2


@given(st.dictionaries(st.integers(0, 3), st.sets(st.integers(0, V - 1), min_size=1, max_size=6), min_size=1))
@settings(max_examples=25)
def test_a_row_chooses_within_its_mask_and_nobody_else_notices(executor, allowed):
    executor.launch(StepPlan(tuple(rows_of(SAMPLINGS))), dict)
    free = executor.collect()
    executor.launch(StepPlan(tuple(rows_of(SAMPLINGS))), lambda: {i: mask_of(tokens) for i, tokens in allowed.items()})
    held = executor.collect()
    left = {2: set(range(2, 65, 3)), 3: set(range(V)) - {0, 3}}  # what the rows' own constraints leave
    for i in range(4):
        if i not in allowed:
            assert held.tokens[i] == free.tokens[i]
        elif allowed[i] & left.get(i, set(range(V))):
            assert held.tokens[i] in allowed[i] & left.get(i, set(range(V)))
        else:
            assert held.tokens[i] == NOTHING_ALLOWED
    if 0 in allowed:  # the most likely of what is allowed; its log-probability is the model's own, among all tokens
        assert held.logprobs[0].top == free.logprobs[0].top


def test_the_masks_are_asked_for_after_the_model_was_started(executor, monkeypatch):
    order = []
    bucket = BUCKETS[1]
    model, choice = executor.masked._models[bucket], executor.masked._choices[4]
    monkeypatch.setitem(executor.masked._models, bucket, lambda *a: order.append("model") or model(*a))
    monkeypatch.setitem(executor.masked._choices, 4, lambda *a: order.append("choice") or choice(*a))
    executor.launch(StepPlan(tuple(rows_of(SAMPLINGS)[:1])), lambda: order.append("masks") or {0: mask_of([7])})
    assert executor.collect().tokens == (7,) and order == ["model", "masks", "choice"]


def test_the_token_of_a_masked_row_is_found_on_the_device(executor):
    (row,) = rows_of(SAMPLINGS[:1])
    executor.launch(StepPlan((row,)), lambda: {0: mask_of([33])})
    executor.launch(StepPlan((Row(row.seat, 3, 1, (), True),)))
    executor.collect()
    blind = executor.collect().tokens
    (other,) = rows_of([Sampling(prompt_len=4)], [(1, 2, 3, 33)])
    executor.launch(StepPlan((other,)))
    assert executor.collect().tokens == blind


def test_where_company_must_not_matter_there_is_one_way_to_run_over_a_mesh_too(executor):
    """One executor for both: each costs seconds to compile. The tokens are those of the other, which has neither."""
    executor.launch(StepPlan(tuple(rows_of(SAMPLINGS))))
    tokens = executor.collect().tokens
    pinned = new_executor(uniform=True, mesh=tensor_mesh(jax.devices()[:2]), buckets=BUCKETS[1:])
    assert pinned.steps == {} and pinned.statistics()["programs"] == 1 + 1 + 2
    pinned.launch(StepPlan(tuple(rows_of(SAMPLINGS))))
    assert pinned.collect().tokens == tokens
    pinned.launch(StepPlan(tuple(rows_of(SAMPLINGS))), lambda: {1: mask_of([9])})
    assert pinned.collect().tokens == (tokens[0], 9, *tokens[2:])
    assert pinned.statistics()["compiles_after_warm_up"] == 0


def test_masks_for_an_executor_without_halves_are_refused():
    with pytest.raises(EngineError, match="whose programs take none"):
        new_executor(halves=()).launch(StepPlan(tuple(rows_of(SAMPLINGS))), dict)


@pytest.mark.parametrize(("rows", "tokens", "step"), [(16, 256, 4), (256, 8192, 2), (4, 4, 4), (48, 1000, 3)])
def test_whatever_fits_the_buckets_fits_the_thinned_ones(rows, tokens, step):
    buckets = bucket_list(rows, tokens)
    some = thinned(buckets, step)
    assert set(some) <= set(buckets) and buckets[-1] in some and list(some) == sorted(some)
    assert all(any(s.tokens >= b.tokens and s.rows >= b.rows for s in some) for b in buckets)
    assert len(some) <= len(buckets) / step + 3
