"""The one place where a configuration becomes objects, and the only one in the host tower that names the device tower."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from orca_jax.core.clock import Clock, MonotonicClock
from orca_jax.core.config import EngineConfig
from orca_jax.core.errors import ConfigError
from orca_jax.core.events import Observer
from orca_jax.engine.door import Door
from orca_jax.engine.engine import Engine
from orca_jax.engine.output import OutputProcessor
from orca_jax.execution.buckets import Bucket, bucket_list, pinned_bucket
from orca_jax.execution.forward import AttentionOptions
from orca_jax.execution.local import LocalExecutor
from orca_jax.execution.memory import PoolSize, check_room, pool_size, table_bytes
from orca_jax.execution.options import ExecutorOptions
from orca_jax.execution.outline import page_bytes
from orca_jax.execution.programs import use_compilation_cache
from orca_jax.models.load import LoadedModel, count_parameters, fill_model, outline_model, parameter_bytes
from orca_jax.models.source import find_tokenizer
from orca_jax.models.weights import CheckpointWeights
from orca_jax.scheduling.kv_manager import KVManager
from orca_jax.scheduling.scheduler import Scheduler
from orca_jax.text.tokenizer import Tokenizer
from pallas_kernels.ragged_paged_attention import pages_dtype, passed_over, resolve

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int, str], None]
"""`(stage, done, total, what)`: stage is "load" (bytes) or "warm-up" (programs)."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What None means on a kind of device."""

    max_num_seqs: int
    max_num_batched_tokens: int
    page_size: int


DEFAULTS = {"cpu": Defaults(16, 256, 32), "gpu": Defaults(256, 8192, 32), "tpu": Defaults(256, 2048, 32)}


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What was chosen: everything that the configuration left open, with its numbers. Lengths are in tokens."""

    model: str
    architecture: str
    num_parameters: int
    parameter_bytes: int
    dtype: str
    devices: tuple[str, ...]
    attention: str
    attention_note: str | None  # why the device's own kernels do not run
    kv_dtype: str
    max_model_len: int
    max_num_seqs: int
    num_slots: int
    max_num_batched_tokens: int | None
    page_size: int
    pool: PoolSize
    buckets: tuple[Bucket, ...]
    deterministic: bool
    lookahead: int


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """A running engine with its door. `tokenizer` is None where none was wanted."""

    engine: Engine
    door: Door
    tokenizer: Tokenizer | None
    info: EngineInfo
    config: EngineConfig

    def close(self) -> None:
        self.engine.close()


def build_engine(
    config: EngineConfig,
    *,
    observers: Iterable[Observer] = (),
    clock: Clock | None = None,
    progress: Progress | None = None,
) -> BuiltEngine:
    """Choose, load, allocate, warm up. What is refused with ConfigError or CheckpointError is refused before the load."""
    report = progress or (lambda stage, done, total, what: None)
    use_compilation_cache(config)
    planned, weights = outline(config)
    tokenizer = None if config.skip_tokenizer_init else load_tokenizer(config, planned)
    info = choose(config, planned)
    log_choice(info)
    loaded = fill_model(planned, weights, config.seed, lambda done, total, what: report("load", done, total, what))
    executor = LocalExecutor(loaded.model, executor_options(info, loaded))
    kv = KVManager(info.pool.num_pages, info.page_size, executor.options.num_slots)
    scheduler = Scheduler(
        kv, info.max_num_seqs, max_batch_tokens=info.max_num_batched_tokens, chunked=config.enable_chunked_prefill,
        lookahead=info.lookahead,
    )  # fmt: skip
    executor.warm_up(lambda done, total, what: report("warm-up", done, total, what))
    engine = Engine(
        scheduler, executor, OutputProcessor(tokenizer), clock=clock or MonotonicClock(), observers=observers
    )
    return BuiltEngine(engine, make_door(config, info, loaded, tokenizer), tokenizer, info, config)


def log_choice(info: EngineInfo) -> None:
    """One line about the engine that is going to be built."""
    note = "" if info.attention_note is None else f" ({info.attention_note})"
    logger.info(
        "%s (%s, %d parameters, %s) on %s; attention: %s%s; K/V pool: %d pages of %d tokens, %d bytes (%s)",
        info.model, info.architecture, info.num_parameters, info.dtype, ", ".join(info.devices), info.attention, note,
        info.pool.num_pages, info.page_size, info.pool.bytes, info.pool.reason,
    )  # fmt: skip


def outline(config: EngineConfig) -> tuple[LoadedModel, CheckpointWeights | None]:
    """The model without memory, and the weights that it would be filled with."""
    return outline_model(config.model, dtype=config.dtype, load_format=config.load_format, revision=config.revision)


def plan_engine(config: EngineConfig) -> EngineInfo:
    """What `build_engine` would choose, from headers alone: no weights are loaded, nothing is allocated or compiled.

    The tokenizer is read, where there is one to read.
    """
    planned = outline(config)[0]
    if not config.skip_tokenizer_init and (config.tokenizer or planned.info.folder) is not None:
        load_tokenizer(config, planned)
    return choose(config, planned)


def load_tokenizer(config: EngineConfig, loaded: LoadedModel) -> Tokenizer:
    """The tokenizer asked for, else the checkpoint's own. Raises ConfigError where there is none to load."""
    folder = loaded.info.folder
    if config.tokenizer is not None and config.tokenizer != config.model:
        folder = find_tokenizer(config.tokenizer, config.revision)
    if folder is None:
        raise ConfigError(
            f"model {loaded.info.name!r} is a shape without files, so it has no tokenizer "
            "(--tokenizer FOLDER, or --skip-tokenizer-init and prompts of token ids)"
        )
    tokenizer = Tokenizer.from_folder(Path(folder))
    tokenizer.check_vocabulary(loaded.config.vocab_size)
    return tokenizer


def make_door(config: EngineConfig, info: EngineInfo, loaded: LoadedModel, tokenizer: Tokenizer | None) -> Door:
    eos_ids = loaded.info.eos_token_ids
    if (
        tokenizer is not None and tokenizer.eos_id is not None
    ):  # a tuned model's chats may end otherwise than its base's
        eos_ids = tuple(dict.fromkeys((*eos_ids, tokenizer.eos_id)))
    return Door(
        tokenizer=tokenizer, vocab_size=loaded.config.vocab_size, max_model_len=info.max_model_len, eos_ids=eos_ids,
        seed=config.seed, max_total_tokens=info.pool.num_pages * info.page_size, page_size=info.page_size,
        max_logprobs=config.max_logprobs, default_max_tokens=config.default_max_tokens,
    )  # fmt: skip


def choose(config: EngineConfig, loaded: LoadedModel) -> EngineInfo:
    """Everything that the configuration leaves open, decided for this machine and a model that is not in memory yet."""
    device = jax.devices()[0]
    defaults = DEFAULTS.get(device.platform, DEFAULTS["gpu"])
    max_num_seqs = config.max_num_seqs or min(defaults.max_num_seqs, config.max_num_batched_tokens or 2**20)
    max_model_len = max_model_length(config, loaded)
    page_size = config.block_size or defaults.page_size
    buckets, budget = shapes(config, defaults, max_num_seqs, max_model_len)
    use: dict[str, Any] = {"head_dim": loaded.config.head_dim, "page_size": page_size, "dtype": loaded.dtype}
    attention = attention_implementation(config, **use)
    kv_dtype = pages_dtype(attention, loaded.dtype)
    num_slots = max_num_seqs * (LocalExecutor.depth + config.lookahead)
    size = parameter_bytes(loaded)
    tables = table_bytes(num_slots, max_model_len, loaded.config.vocab_size)
    weights = f"the weights of {loaded.info.name} take {size} bytes in {loaded.dtype.name}"
    check_room(size, weights, "a smaller model, or a narrower --dtype")
    pool = pool_size(
        page_bytes(loaded.config, AttentionOptions(attention, page_size, layers=loaded.layers), kv_dtype),
        page_size=page_size, max_num_seqs=max_num_seqs, max_model_len=max_model_len, asked_bytes=config.kv_cache_memory_bytes,
        gpu_memory_utilization=config.gpu_memory_utilization, bytes_to_come=size + tables,
    )  # fmt: skip
    return EngineInfo(
        model=loaded.info.name,
        architecture=loaded.info.architecture,
        num_parameters=count_parameters(loaded.model),
        parameter_bytes=size,
        dtype=loaded.dtype.name,
        devices=tuple(str(d) for d in jax.devices()[:1]),
        attention=attention,
        attention_note=passed_over(attention, **use),
        kv_dtype=kv_dtype.name,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        num_slots=num_slots,
        max_num_batched_tokens=budget,
        page_size=page_size,
        pool=pool,
        buckets=buckets,
        deterministic=config.deterministic,
        lookahead=config.lookahead,
    )


def attention_implementation(config: EngineConfig, **use: Any) -> str:
    """The kernels' name of what will run, for a use as `resolve` knows it. Raises ConfigError where that cannot run."""
    try:
        return resolve(None if config.attention_backend == "auto" else config.attention_backend, **use)
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f"attention_backend = {config.attention_backend!r}: {error}") from error


def attention_note(implementation: str) -> str | None:
    """Why an accelerator does not run the kernels that are written for its kind; None where it does, and on a CPU."""
    return passed_over(implementation)


def max_model_length(config: EngineConfig, loaded: LoadedModel) -> int:
    most = loaded.info.max_context
    if config.max_model_len is not None and config.max_model_len > most:
        raise ConfigError(
            f"max_model_len = {config.max_model_len}, but the model's positions end at {most} (--max-model-len {most})"
        )
    return config.max_model_len or most


def shapes(
    config: EngineConfig, defaults: Defaults, max_num_seqs: int, max_model_len: int
) -> tuple[tuple[Bucket, ...], int]:
    """The buckets, and the token budget of an iteration that keeps it within them."""
    if config.deterministic:
        buckets = pinned_bucket(max_num_seqs)
        if config.max_num_batched_tokens not in (None, buckets[0].tokens):
            raise ConfigError(
                f"max_num_batched_tokens = {config.max_num_batched_tokens}, but deterministic mode pins one shape of "
                f"{buckets[0].tokens} tokens (leave --max-num-batched-tokens out)"
            )
        return buckets, buckets[0].tokens
    budget = config.max_num_batched_tokens or max(defaults.max_num_batched_tokens, max_num_seqs)
    if not config.enable_chunked_prefill:
        budget = config.max_num_batched_tokens or max(budget, max_model_len)
        if budget < max_model_len:
            raise ConfigError(
                f"max_num_batched_tokens = {budget} is below max_model_len = {max_model_len}, and without chunked "
                f"prefill a prompt must fit in one iteration (--max-num-batched-tokens {max_model_len})"
            )
    return bucket_list(max_num_seqs, budget), budget


def executor_options(info: EngineInfo, loaded: LoadedModel) -> ExecutorOptions:
    return ExecutorOptions(
        buckets=info.buckets,
        num_slots=info.num_slots,
        num_pages=info.pool.num_pages,
        max_model_len=info.max_model_len,
        attention=AttentionOptions(info.attention, info.page_size, uniform=info.deterministic, layers=loaded.layers),
        kv_dtype=info.kv_dtype,
    )
