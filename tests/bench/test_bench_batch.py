"""The benchmark of batch files runs both ways over the same requests, and notices an answer of another length."""

import pytest

from orca_jax.batch.paths import Paths
from orca_jax.bench import batch
from orca_jax.bench.workloads import Job
from orca_jax.core.errors import EngineError
from orca_jax.engine.thread import EngineThread
from orca_jax.offline.llm import LLM
from orca_jax.testing.fake_engine import build_fake_engine
from orca_jax.testing.tiny_tokenizer import write_tokenizer


def test_both_ways_answer_the_same_requests(tmp_path):
    built = build_fake_engine(write_tokenizer(tmp_path / "tokenizer"))
    requests = [Job(n, [20 + n, 21, 22], 3 + n % 4) for n in range(12)]
    paths = Paths.named(batch._write(tmp_path / "in.jsonl", requests), tmp_path / "out.jsonl")
    llm = LLM.over(built)
    with EngineThread(built.engine) as thread:
        batch.run_batch(built, thread, paths)
        batch.generate(llm, requests)
        batch.run_batch(built, thread, paths)
        assert len(paths.output.read_text().splitlines()) == len(requests)
        too_long = [Job(0, [20], 100)]
        batch._write(paths.source, too_long)
        with pytest.raises(EngineError, match="1 lines have failed"):
            batch.run_batch(built, thread, paths)
    with pytest.raises(EngineError, match="are not those asked for"):
        batch._check([1], requests)


def test_the_table_gives_the_ratio_of_the_medians():
    found = [{"requests": 2, "out_tokens": 100, "generate_s": g, "batch_s": b} for g, b in ((1, 1), (1, 5), (4, 1.25))]
    assert batch.table(found).splitlines()[-1] == "| 2 | 100.0 | 80.0 | 0.800 |"
