"""A whole engine without a device, for the tests of the doors: everything but the executor is real."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from orca_jax.core.config import EngineConfig
from orca_jax.core.events import Observer
from orca_jax.engine.door import Door
from orca_jax.engine.engine import Engine
from orca_jax.engine.output import OutputProcessor
from orca_jax.scheduling.kv_manager import KVManager
from orca_jax.scheduling.scheduler import Scheduler
from orca_jax.testing.fake_executor import FakeExecutor, FakeModel
from orca_jax.text.tokenizer import Tokenizer

PAGE_SIZE = 4


@dataclass(frozen=True, slots=True)
class FakeInfo:
    """The part of `EngineInfo` that doors read."""

    model: str
    devices: tuple[str, ...]
    max_model_len: int
    max_num_seqs: int


@dataclass(frozen=True, slots=True)
class FakeBuilt:
    """As `BuiltEngine`, and the `model` that foresees the answers."""

    engine: Engine
    door: Door
    tokenizer: Tokenizer | None
    info: FakeInfo
    config: EngineConfig
    model: FakeModel

    def close(self) -> None:
        self.engine.close()


def build_fake_engine(
    tokenizer_folder: Path,
    config: EngineConfig | None = None,
    observers: Iterable[Observer] = (),
    eos_every: int | None = None,
) -> FakeBuilt:
    """What `build_engine` gives, over the fake executor: 4 sequences of 64 tokens, 16 tokens an iteration, unless said."""
    config = EngineConfig() if config is None else config
    tokenizer = Tokenizer.from_folder(tokenizer_folder)
    model = FakeModel(tokenizer.vocab_size, tokenizer.eos_id or 0, eos_every)
    length, seqs = config.max_model_len or 64, config.max_num_seqs or 4
    pages = seqs * -(-length // PAGE_SIZE)
    info = FakeInfo("fake", ("fake:0",), length, seqs)
    slots = info.max_num_seqs * (1 + config.lookahead)
    scheduler = Scheduler(
        KVManager(pages, PAGE_SIZE, slots), info.max_num_seqs, max_batch_tokens=config.max_num_batched_tokens or 16,
        chunked=config.enable_chunked_prefill, lookahead=config.lookahead,
    )  # fmt: skip
    used = None if config.skip_tokenizer_init else tokenizer
    door = Door(
        tokenizer=used, vocab_size=tokenizer.vocab_size, max_model_len=info.max_model_len, eos_ids=(model.eos_id,),
        seed=config.seed, max_total_tokens=pages * PAGE_SIZE, page_size=PAGE_SIZE, max_logprobs=config.max_logprobs,
        default_max_tokens=config.default_max_tokens,
    )  # fmt: skip
    executor = FakeExecutor(model, pages, PAGE_SIZE, slots)
    engine = Engine(scheduler, executor, OutputProcessor(used), observers=observers)
    return FakeBuilt(engine, door, used, info, config, model)
