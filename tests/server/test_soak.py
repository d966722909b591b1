"""The soak over a real port and an engine that repeats its prompt: whole, it passes; with a page table that leaks, not."""

import asyncio
import types

import pytest

from orca_jax.bench.soak import Plan, Soak
from orca_jax.bench.soak_run import soak_rounds

PLAN = Plan(clients=8, requests=100, tokens=24)


def parrot(leaks):
    """A sampler that reads the prompt back through the page table; a leaky one through that of the slot beside."""

    def sample(executor, row, life, mask):
        sampling = row.seat.sampling
        position = (row.start + row.count - sampling.prompt_len) % sampling.prompt_len
        beside = executor._lives[row.seat.slot - 1] if leaks and row.seat.slot % 2 else None
        for seat in (row.seat if beside is None else beside.seat, row.seat):
            if position < len(seat.pages) * executor.page_size:
                page, offset = seat.pages[position // executor.page_size], position % executor.page_size
                if executor._tokens[page, offset] >= 0:
                    life.last_token = int(executor._tokens[page, offset])
                    break
        return life.last_token

    return sample


def soaked(serving, leaks):
    with serving(engine={"max_model_len": 256, "max_num_batched_tokens": 512, "max_num_seqs": 4}) as running:
        executor = running.engine(lambda engine: engine.executor)
        executor._sample = types.MethodType(parrot(leaks), executor)
        soak = Soak(running.address, "fake", PLAN)
        verdicts = asyncio.run(soak_rounds(soak, lambda: 0, lambda line: None))
        running.wait_until_idle()
        assert running.engine(lambda engine: engine.scheduler.statistics())["requests"] == 0
    return soak.checker, {what: ok for what, _, ok in verdicts}


def test_a_whole_engine_passes(serving):
    checker, verdicts = soaked(serving, leaks=False)
    assert all(verdicts.values()), checker.examples
    assert checker.counts["own secret seen"] > 50


@pytest.mark.parametrize("what", ["another's secret in an answer", "answers unlike those alone"])
def test_one_that_leaks_is_caught(serving, what):
    checker, verdicts = soaked(serving, leaks=True)
    assert not verdicts[what]
    assert checker.examples
