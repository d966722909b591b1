"""A library of a few small modules and the smallest run that can learn something from them."""

import shutil

import pytest

from orca_jax.train.config import DataConfig, RunConfig, ShapeConfig, TrainConfig
from orca_jax.train.corpus import library_root
from orca_jax.train.dataset import build_dataset

MODULES = (
    "bisect.py",
    "heapq.py",
    "textwrap.py",
    "string.py",
    "keyword.py",
    "fnmatch.py",
    "this.py",
    "abc.py",
    "shlex.py",
)


@pytest.fixture(scope="session")
def small_library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("library")
    for name in MODULES:
        shutil.copyfile(library_root() / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def small_config():
    return TrainConfig(
        model=ShapeConfig(
            vocab_size=512, hidden_size=32, num_layers=1, num_heads=4, num_kv_heads=2, head_dim=8, intermediate_size=48,
            max_position_embeddings=64,
        ),
        data=DataConfig(held_out=0.2, conversation_share=0.1, batch=4, windows=((0.0, 64),)),
        run=RunConfig(steps=20, compute_dtype="float32", warmup=0.1),
    )  # fmt: skip


@pytest.fixture(scope="session")
def small_dataset(small_config, small_library):
    return build_dataset(small_config, small_library)
