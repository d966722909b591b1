"""Commands over the fake engine, run in this process."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orca_jax.core.config import EngineConfig
from orca_jax.testing.fake_engine import FakeBuilt, build_fake_engine
from orca_jax.testing.tiny_tokenizer import write_tokenizer


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch, tokenizer_folder: Path) -> Iterator[list[FakeBuilt]]:
    """Every LLM of the test runs over a fake engine; the list holds what was built, all of it closed in the end."""
    built: list[FakeBuilt] = []

    def build(config: EngineConfig, observers: tuple[Any, ...], shown: bool) -> FakeBuilt:
        built.append(build_fake_engine(tokenizer_folder, config, observers))
        return built[-1]

    monkeypatch.setattr("orca_jax.offline.llm._build", build)
    monkeypatch.setattr("orca_jax.offline.building.build", build)
    yield built
    assert all(one.engine.executor._closed for one in built)


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes the three standard streams claim to be a terminal."""

    def claim() -> None:
        monkeypatch.setattr("orca_jax.cli.terminal.on_terminal", lambda stream: True)
        for module in ("generate", "chat", "prompts"):
            monkeypatch.setattr(f"orca_jax.cli.{module}.on_terminal", lambda stream: True)

    return claim
