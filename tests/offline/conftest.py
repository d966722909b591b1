"""LLMs over the fake engine."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orca_jax.core.config import EngineConfig
from orca_jax.offline.llm import LLM
from orca_jax.testing.fake_engine import build_fake_engine
from orca_jax.testing.tiny_tokenizer import write_tokenizer


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def make_llm(tokenizer_folder: Path) -> Iterator[Callable[..., LLM]]:
    """Makes an LLM over the fake engine from settings; `llm._built.model` foresees its answers. Checked at the end."""
    made: list[LLM] = []

    def make(eos_every: int | None = None, observers: tuple[Any, ...] = (), **settings: Any) -> LLM:
        config = EngineConfig.from_settings(settings)
        made.append(LLM.over(build_fake_engine(tokenizer_folder, config, observers, eos_every)))
        return made[-1]

    yield make
    for llm in made:
        if llm._built.engine.failure is None and not llm._built.engine.has_unfinished:
            llm._built.engine.check()
        llm.close()


@pytest.fixture
def llm(make_llm: Callable[..., LLM]) -> LLM:
    return make_llm()
