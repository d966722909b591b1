"""Whole models: the step compiles where it fits, and where it does not, that is said with its bytes."""

import pytest

from orca_jax.execution.buckets import Bucket
from orca_jax.plan.hardware import GiB
from orca_jax.plan.report import Refusal, StepReport
from tests.plan.conftest import Cell

pytestmark = pytest.mark.full

FITTING = [
    Cell("llama-3.1-8b", "v6e", 1, None),
    Cell("llama-3.1-8b", "v5e", 8, None),
    Cell("llama-3.1-8b", "tpu7x", 1, None),
    Cell("llama-3.1-8b", "h200", 1, None),
    Cell("llama-3.1-8b", "h200", 1, None, bucket=Bucket(1024, 64)),
    Cell("llama-3.1-8b", "v6e", 1, None, bucket=Bucket(1024, 64)),
    Cell("llama-3.1-70b", "v6e", 8, None),
    Cell("llama-3.1-70b", "tpu7x", 8, None),
    Cell("llama-3.1-70b", "h200", 8, None),
    Cell("llama-3.1-70b", "b200", 1, None),
    Cell("gpt-13b", "v6e", 1, None),
    Cell("gpt-13b", "b200", 1, None),
    Cell("gpt-175b", "tpu7x", 8, None),
    Cell("gpt-175b", "h200", 8, None),
    Cell("gpt-175b", "b200", 8, None),
]
REFUSED = {  # bytes of the weights on each device, and of its memory
    Cell("llama-3.1-8b", "v5e", 1, None): (16.06e9, 16 * GiB),
    Cell("gpt-175b", "v6e", 8, None): (43.6e9, 32 * GiB),
    Cell("llama-3.1-70b", "v6e", 1, None): (141e9, 32 * GiB),
}
TOO_LARGE_GPU = Cell("gpt-175b", "h200", 1, None)


@pytest.mark.parametrize("cell", FITTING, ids=str)
def test_it_compiles_where_it_fits(cell: Cell, result: StepReport):
    assert result.fits
    assert result.aliased_bytes >= result.cache_bytes
    layers = 1 if result.layers == "scan" else cell.spec().config.num_layers
    model = [each for each in result.collectives if "/sample/" not in each.scope]
    assert len(model) == (2 * layers + 1 if cell.num_devices > 1 else 0)
    assert {each.kind for each in model} <= {"all-reduce"}


@pytest.mark.parametrize("cell", REFUSED, ids=str)
def test_the_compiler_refuses_what_does_not_fit(cell: Cell, result: Refusal):
    weights, memory = REFUSED[cell]
    assert isinstance(result, Refusal)
    assert not result.fits
    assert result.needed_bytes is not None
    assert result.memory_bytes is not None
    assert result.needed_bytes > weights
    assert 0.9 * memory < result.memory_bytes <= memory
    assert result.needed_bytes > result.memory_bytes
    assert "RESOURCE_EXHAUSTED" in result.reason


@pytest.mark.parametrize("cell", [TOO_LARGE_GPU], ids=str)
def test_a_gpu_program_that_does_not_fit_says_so_itself(cell: Cell, result: StepReport):
    """XLA:GPU compiles it all the same: the sum of its parts is what tells."""
    assert not result.fits
    assert result.needed_bytes > result.parameter_bytes > 349e9 > result.memory_bytes
