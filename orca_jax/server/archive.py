"""Opens the folder of files and batches, where there is to be one."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orca_jax.batch.engine_answerer import EngineAnswerer
from orca_jax.batch.store import Store, sweep
from orca_jax.batch.words import BatchError
from orca_jax.batch.worker import BatchWorker
from orca_jax.core.config import EngineConfig
from orca_jax.core.errors import ConfigError
from orca_jax.server.config import DEFAULT_DATA, ServerConfig
from orca_jax.server.files import Archive
from orca_jax.server.service import Served, Service

logger = logging.getLogger(__name__)

SPEED = {"compilation_cache_dir", "gpu_memory_utilization", "kv_cache_memory_bytes"}
"""Settings of the engine on which no answer depends."""


def open_store(config: ServerConfig) -> Store | None:
    """The folder that the configuration asks for. Raises ConfigError where one that was named cannot be had."""
    wanted = config.data_dir
    if wanted in (None, "none"):
        return None
    try:
        return Store(Path(DEFAULT_DATA if wanted == "auto" else str(wanted)).expanduser())
    except BatchError as error:
        if wanted != "auto":
            raise ConfigError(str(error)) from error
        logger.warning("no files and batches: %s", error)
        return None


def open_archive(service: Service, built: Served, engine: EngineConfig, store: Store) -> Archive:
    """Go on with the store's batches."""
    sweep(store)
    settings: dict[str, Any] = {name: value for name, value in asdict(engine).items() if name not in SPEED}

    def answerer(batch_id: str) -> EngineAnswerer:
        return EngineAnswerer(
            service.thread,
            built.door,
            built.engine.clock,
            model=service.model,
            models=[service.model],
            name=batch_id,
            trust_templates=service.config.trust_request_chat_template,
        )

    worker = BatchWorker(store, answerer, settings, max(1, built.info.max_num_seqs), lambda: service.thread.alive)
    worker.wake()
    return Archive(store, worker, service.config.max_data_bytes)
