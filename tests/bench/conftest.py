"""A model of nothing, for benchmarks that only have to run."""

import jax.numpy as jnp
import numpy as np
import pytest

from orca_jax.models.checkpoint import CheckpointInfo
from orca_jax.models.config import DecoderConfig
from orca_jax.models.dummy import fill_randomly
from orca_jax.models.load import LoadedModel, abstract_model

TINY = DecoderConfig("llama", 64, 16, 2, 4, 2, 8, 32, 512, tie_embeddings=True)


@pytest.fixture
def loaded() -> LoadedModel:
    model = fill_randomly(abstract_model(TINY, "float32"), jnp.dtype("float32"), 0, lambda *_: None)
    return LoadedModel(model, TINY, CheckpointInfo("tiny", "tiny", TINY), np.dtype("float32"), "unrolled")
