"""The benchmarks run, on a model of nothing: what they time is what the engine runs, and every part is there."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orca_jax.bench import iteration, offline, products
from orca_jax.bench.parts import PARTS, compile_without
from orca_jax.bench.workloads import Job, Workload
from orca_jax.core.config import EngineConfig
from orca_jax.core.errors import EngineError
from orca_jax.execution.step import StepShape
from orca_jax.models.config import DecoderConfig
from orca_jax.models.load import LoadedModel

TINY = DecoderConfig("llama", 64, 16, 2, 4, 2, 8, 32, 512, tie_embeddings=True)  # the one that `loaded` has


def test_a_chain_has_every_product_of_the_step():
    c = products.Candidate("out_in", "highest")
    weights = products.make_weights(TINY, "float32", c.layout)
    text = jax.jit(products.product_chain(c, 2)).lower(jnp.ones((4, 16)), weights).as_text()
    assert text.count("dot_general") == 4 * TINY.num_layers + 1
    assert sum(w.size for w in weights) == 64 * 16 + 2 * (16 * (32 + 2 * 16) + 32 * 16 + 3 * 16 * 32)


@pytest.mark.parametrize("layout", products.CONTRACTED)
def test_candidates_multiply_alike(layout: str):
    candidate = products.Candidate(layout, "highest")
    weights = products.make_weights(TINY, "float32", "out_in")
    weights = [w if layout == "out_in" else w.T for w in weights]
    x = jnp.ones((4, 16))
    expected = products.product_chain(products.Candidate("out_in", "highest"), 2)(
        x, products.make_weights(TINY, "float32", "out_in")
    )
    np.testing.assert_allclose(products.product_chain(candidate, 2)(x, weights), expected, rtol=1e-5)


def test_an_iteration_is_measured_whole_and_in_parts(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(iteration, "MAX_MODEL_LEN", 512)
    case = iteration.Case(3, chunk=5)
    executor = iteration.make_executor(loaded, case)
    runs = iteration.contestants(loaded, executor, case)
    found = iteration.summary(iteration.time_in_turn(runs, rounds=2))
    assert set(found["parts_ms"]) == {"attention", "sampling", "products", "host", "rest"}
    assert sum(found["parts_ms"].values()) == pytest.approx(found["ms"]["iteration"]["min"])
    assert executor.compiles_after_warm_up == 0
    line = {"dtype": "float32", "tokens": 8, **found}
    assert len(iteration.table([line]).splitlines()) == 3
    executor.close()


def test_the_reduced_steps_leave_out_what_they_say(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(iteration, "MAX_MODEL_LEN", 512)
    case = iteration.Case(4)
    executor = iteration.make_executor(loaded, case)
    packed, _ = executor.packer.pack(case.plan(), case.bucket)
    shape = StepShape(case.bucket, executor.options.pages_per_row, executor.options.attention)
    before = np.asarray(executor.cache[0])
    output = compile_without("attention", executor, shape)(packed)
    assert output.dtype == jnp.int32 and np.array_equal(before, np.asarray(executor.cache[0]))
    logits = compile_without("sampling", executor, shape)(packed)
    assert logits.shape == (4, TINY.vocab_size) and not np.array_equal(before, np.asarray(executor.cache[0]))
    assert set(PARTS) == {"attention", "sampling"}
    executor.close()


def test_a_workload_is_served_with_exact_lengths_and_the_hosts_share(monkeypatch: pytest.MonkeyPatch):
    folder = Path(__file__).resolve().parents[1] / "models" / "goldens" / "llama"
    config = EngineConfig(model=str(folder), max_num_seqs=4, max_num_batched_tokens=4, skip_tokenizer_init=True,
                          compilation_cache_dir=None)  # fmt: skip
    subject = offline.Subject(config)
    jobs = [Job(0, [1, 2, 3], 5), Job(1, list(range(40)), 1), Job(2, [9], 12)]
    row = offline.measure(subject, Workload("few", 0, jobs))
    assert (row["in_tokens"], row["out_tokens"], row["compiles_after_warm_up"]) == (44, 18, 0)
    assert 0 < row["host_share"] <= 1 and sum(row["buckets"].values()) == row["iterations"]
    assert "tpot_ms" in offline.measure(subject, Workload("one", 0, jobs[:1]))
    json.dumps(row)
    monkeypatch.setattr(subject, "serve", lambda workload: ([], 0.0, 1.0))
    with pytest.raises(EngineError, match="output lengths"):
        offline.measure(subject, Workload("few", 0, jobs))
    subject.built.close()


def test_the_cases_are_those_of_the_target():
    assert sorted(iteration.CASES) == [4, 16, 256]
    plan = iteration.CASES[256].plan()
    assert [row.count for row in plan.rows] == [1] * 15 + [241]
    assert {row.start + row.count for row in plan.rows[:15]} == {iteration.CONTEXT}
    pages = np.concatenate([row.seat.pages for row in plan.rows])
    assert len(set(pages.tolist())) == len(pages)
