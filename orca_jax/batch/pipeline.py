"""The source as a grain pipeline: in the file's order or a seeded one, a share of it, read and tokenised ahead."""

import os
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from orca_jax.batch.answerer import Answerer
from orca_jax.batch.decode import Decode
from orca_jax.batch.runner import Taken
from orca_jax.batch.words import BatchError, Failed, LineError, Prepared, Refused
from orca_jax.core.errors import RequestError
from orca_jax.protocol.errors import ApiError

READ_AHEAD = 64


class Records(Protocol):
    """A random-access source that threads may share. `unit` is what errors call one of its records."""

    unit: str
    digest: str

    def __len__(self) -> int: ...

    def number(self, index: int) -> int:
        """How a person counts the record, from 1."""

    def read(self, index: int) -> Any:
        """What the decoder understands. Raises LineError."""

    def check_unchanged(self) -> None:
        """Raise BatchError if the file was written to meanwhile."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Order:
    """`seed` shuffles, None keeps the file's order; then this is part `shard` (from 0) of `num_shards`."""

    seed: int | None = None
    shard: int = 0
    num_shards: int = 1


class Pipeline:
    """Yields every record of the share, prepared. `done` are the numbers that an earlier run has answered."""

    def __init__(
        self,
        records: Records,
        decode: Decode,
        answerer: Answerer,
        *,
        done: Container[int] = (),
        order: Order | None = None,
        threads: int | None = None,
    ):
        self._records, self._decode, self._answerer, self._done = records, decode, answerer, done
        threads = max(1, min(4, os.cpu_count() or 1)) if threads is None else threads
        self._source = _grain(len(records), Order() if order is None else order, self._take, threads)

    def __iter__(self) -> Iterator[Taken]:
        for (taken,) in self._source:
            yield taken

    def close(self) -> None:
        """Let the threads go."""
        self._source.close()

    def _take(self, index: int) -> tuple[Taken]:
        """One record from its bytes through the door, in a thread of the pipeline. A tuple, for grain drops None."""
        number = self._records.number(index)
        if number in self._done:
            return (None,)
        where = f"{self._records.unit} {number}"
        try:
            item = self._decode(number, self._records.read(index))
        except LineError as error:
            failure = Failed(error.code, f"{where}: {error}", error.param)
            return (Refused(number, error.custom_id, failure),)
        try:
            return (Prepared(number, item.custom_id, self._answerer.prepare(item)),)
        except (RequestError, ApiError) as error:
            failure = self._answerer.refusal(error)
            return (Refused(number, item.custom_id, replace(failure, message=f"{where}: {failure.message}")),)


def share(count: int, order: Order) -> int:
    """How many of `count` records a share has."""
    return len(range(order.shard, count, order.num_shards))


def _grain(count: int, order: Order, take: Callable[[int], tuple[Taken]], threads: int) -> Any:
    """An iterator of grain over `take` of each index. Raises BatchError where grain is not installed."""
    try:
        import grain
    except ModuleNotFoundError as error:
        raise BatchError(
            "batch files are read with grain, which is not installed (pip install 'orca-jax[batch]')"
        ) from error
    indices = grain.MapDataset.range(count)
    if order.seed is not None:
        indices = indices.seed(order.seed).shuffle()
    if order.num_shards > 1:
        indices = indices[order.shard :: order.num_shards]
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(READ_AHEAD, threads))
    return iter(indices.map(take).to_iter_dataset(options))
