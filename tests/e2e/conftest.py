"""Real executors over a tiny checkpoint, compiled once; every test puts fresh engines around them."""

from pathlib import Path

import pytest

from orca_jax.execution.buckets import bucket_list, pinned_bucket
from orca_jax.execution.forward import AttentionOptions
from orca_jax.execution.local import LocalExecutor
from orca_jax.execution.options import ExecutorOptions
from orca_jax.models.load import load_model
from pallas_kernels.ragged_paged_attention import pages_dtype

GOLDENS = Path(__file__).parent.parent / "models" / "goldens"
ROWS, TOKENS, PAGE, LENGTH = 4, 16, 4, 64


def make_executor(name: str, dtype: str, *, deterministic: bool = False, layers: str = "unrolled") -> LocalExecutor:
    loaded = load_model(GOLDENS / name, dtype=dtype, layers=layers)
    executor = LocalExecutor(
        loaded.model,
        ExecutorOptions(
            buckets=pinned_bucket(ROWS, TOKENS) if deterministic else bucket_list(ROWS, TOKENS),
            num_slots=2 * ROWS,
            num_pages=ROWS * LENGTH // PAGE,
            max_model_len=LENGTH,
            attention=AttentionOptions("xla", PAGE, uniform=deterministic, layers=loaded.layers),
            kv_dtype=pages_dtype("xla", loaded.dtype),
        ),
    )
    executor.warm_up()
    return executor


@pytest.fixture(scope="session")
def float32_executor():
    return make_executor("llama", "float32")


@pytest.fixture(scope="session")
def windowed_executor():
    return make_executor("mistral", "float32")


@pytest.fixture(scope="session")
def scanned_executor():
    return make_executor("llama", "float32", layers="scan")


@pytest.fixture(scope="session")
def deterministic_executor():
    return make_executor("llama", "bfloat16", deterministic=True)


@pytest.fixture(scope="session")
def model_of():
    """The checkpoint in float32, as the dense oracle wants it."""
    return lambda name: load_model(GOLDENS / name, dtype="float32", layers="unrolled").model
