"""The executor by itself: order of launches, refusals, the programs it owns, memory it gives back."""

import numpy as np
import pytest

from orca_jax.core.errors import EngineError
from orca_jax.core.plan import Row, Sampling, Seat, StepPlan
from orca_jax.core.sampling_params import MAX_BAD_WORD_TOKENS
from orca_jax.execution.buckets import Bucket
from orca_jax.execution.constraints import constraint_line
from orca_jax.execution.forward import AttentionOptions
from orca_jax.execution.local import LocalExecutor
from orca_jax.execution.memory import table_bytes
from orca_jax.execution.options import ExecutorOptions
from orca_jax.execution.programs import COMPILES
from orca_jax.models.config import DecoderConfig
from orca_jax.models.dummy import fill_randomly
from orca_jax.models.load import abstract_model
from pallas_kernels.ragged_paged_attention import implementation
from pallas_kernels.ragged_paged_attention.target import Target

CONFIG = DecoderConfig(
    family="llama", vocab_size=64, hidden_size=32, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=16,
    intermediate_size=32, max_position_embeddings=32,
)  # fmt: skip


def new_executor():
    model = fill_randomly(abstract_model(CONFIG, "float32"), "float32", 0, lambda *_: None)
    options = ExecutorOptions((Bucket(8, 4),), 4, 32, 32, AttentionOptions("xla", 4), "float32")
    return LocalExecutor(model, options)


def row(slot, start, tokens, samples=True, **sampling):
    seat = Seat(slot, np.arange(8 * slot, 8 * slot + 8, dtype=np.int32), Sampling(prompt_len=3, **sampling))
    return Row(seat, start, max(1, len(tokens)), tuple(tokens), samples)


@pytest.fixture(scope="module")
def executor():
    executor = new_executor()
    executor.warm_up()
    return executor


def test_warm_up_reports_each_program_and_nothing_compiles_afterwards():
    executor, seen = new_executor(), []
    executor.warm_up(lambda done, total, what: seen.append((done, total, what)))
    assert [done for done, _, _ in seen] == list(range(1, len(seen) + 1))
    assert {total for _, total, _ in seen} == {len(seen)}
    assert seen[0][2] == "step of 8 tokens in 4 rows"
    before = COMPILES.count
    executor.launch(StepPlan((row(0, 0, [1, 2, 3], logprobs=2, logit_bias=((5, 1.0),)),)))
    executor.collect()
    assert COMPILES.count == before
    assert executor.statistics()["compiles_after_warm_up"] == 0


def test_the_counter_sees_what_compiles():
    import jax

    before = COMPILES.count
    jax.jit(lambda x: x * 17 + 3)(np.float32(2))
    assert COMPILES.count > before


def test_an_iteration_before_the_warm_up_is_refused():
    with pytest.raises(EngineError, match="warmed up"):
        new_executor().launch(StepPlan((row(0, 0, [1]),)))


def test_results_come_back_in_the_order_of_the_plan(executor):
    alone = []
    for slot, prompt in enumerate(([1, 2, 3], [4], [5, 6])):
        executor.launch(StepPlan((row(slot, 0, prompt),)))
        alone.append(executor.collect().tokens[0])
    executor.launch(StepPlan((row(0, 0, [1, 2, 3]), row(1, 0, [4]), row(2, 0, [5, 6]))))
    assert list(executor.collect().tokens) == alone


def test_the_tables_take_what_was_said(executor):
    o = executor.options
    arrays = (executor.history, *executor.constraints)
    assert table_bytes(o.num_slots, o.max_model_len, executor.vocab_size) == sum(x.nbytes for x in arrays)


def test_a_row_that_does_not_sample_brings_no_token(executor):
    executor.launch(StepPlan((row(0, 0, [1, 2, 3], samples=False),)))
    assert executor.collect().tokens == (-1,)


def test_a_token_that_the_host_has_not_read_is_found_on_the_device(executor):
    first = row(0, 0, [1, 2, 3])
    executor.launch(StepPlan((first,)))
    executor.launch(StepPlan((Row(first.seat, 3, 1, (), True),)))
    token, blind = executor.collect().tokens[0], executor.collect().tokens[0]
    executor.launch(StepPlan((row(1, 0, [1, 2, 3, token]),)))
    assert executor.collect().tokens[0] == blind


def test_too_large_an_iteration_names_its_size(executor):
    with pytest.raises(ValueError, match="9 tokens in 1 rows"):
        executor.launch(StepPlan((row(0, 0, range(9)),)))


def test_the_statistics_say_why_a_device_s_own_kernels_do_not_run(executor, monkeypatch):
    assert executor.statistics()["attention"] == "xla"
    assert "attention_note" not in executor.statistics()
    monkeypatch.setattr(implementation, "current_target", lambda: Target("gpu", "NVIDIA B200"))
    assert str(executor.statistics()["attention_note"]).startswith(
        "no mosaic_gpu on NVIDIA B200: its kernels use wgmma"
    )


def test_closing_twice_is_fine_and_nothing_runs_afterwards():
    executor = new_executor()
    executor.warm_up()
    arrays = [*executor.cache, executor.history, *executor.parameters]
    executor.close()
    executor.close()
    assert all(x.is_deleted() for x in arrays)
    with pytest.raises(EngineError, match="closed"):
        executor.launch(StepPlan((row(0, 0, [1]),)))


def test_a_bad_word_longer_than_the_table_never_gets_into_it():
    with pytest.raises(EngineError, match=f"which holds {MAX_BAD_WORD_TOKENS}"):
        constraint_line(Sampling(bad_words=(tuple(range(20)),)), 64)
