"""Runs a store's batches beside a server, one after another, and goes on with them after a restart."""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from orca_jax.batch.decode import Decode, openai_item
from orca_jax.batch.engine_answerer import EngineAnswerer
from orca_jax.batch.job import Job
from orca_jax.batch.line_file import LineFile
from orca_jax.batch.paths import Paths
from orca_jax.batch.pipeline import Pipeline
from orca_jax.batch.runner import Limits, Runner
from orca_jax.batch.store import Batch, Store
from orca_jax.batch.words import BatchError, Counts, Item, LineError

logger = logging.getLogger(__name__)

MAX_LINES = 50_000
COUNT_SECONDS = 0.5
RETRY_SECONDS = 5.0  # after the store itself has failed, such as on a full disk

MakeAnswerer = Callable[[str], EngineAnswerer]
"""An answerer for the batch of this id."""


class BatchWorker:
    """A thread that takes the oldest batch that has not ended, until there is none; `wake` when there is a new one.

    `settings` are what answers depend on besides the input: a batch begun under others is failed rather than mixed.
    `inflight` bounds how many of its lines the engine has at once, which other clients may have to wait for. While the
    engine is not `alive`, batches stay as they are, for the next server.
    """

    def __init__(
        self,
        store: Store,
        answerer: MakeAnswerer,
        settings: Mapping[str, Any],
        inflight: int,
        alive: Callable[[], bool] = lambda: True,
    ):
        self._store, self._answerer, self._settings, self._inflight = store, answerer, settings, inflight
        self._alive = alive
        self._expired: set[str] = set()
        self._wake = threading.Event()
        self._closing = False
        self._mutex = threading.Lock()
        self._running: tuple[str, Runner] | None = None
        self._thread = threading.Thread(target=self._run, name="orca-batches", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        self._wake.set()

    def cancel(self, batch: Batch) -> Batch:
        """Ask for the end of a batch; one that has ended stays as it is."""
        with self._mutex:
            if batch.status == "validating" and (self._running is None or self._running[0] != batch.id):
                return self._store.end(batch.id, "cancelled", None, None)  # it waits for others, but not its end
            found = self._store.advance(batch.id, "cancelling", only_from=("validating", "in_progress", "finalizing"))
            if found.status == "cancelling" and self._running is not None and self._running[0] == batch.id:
                self._running[1].stop()
        self.wake()
        return found

    def close(self) -> None:
        """Stop where things stand; the next server on this folder goes on from there."""
        self._closing = True
        with self._mutex:
            if self._running is not None:
                self._running[1].stop()
        self.wake()
        self._thread.join(30.0)

    def _run(self) -> None:
        while not self._closing:
            self._wake.clear()
            try:
                for batch in self._store.unfinished():
                    if self._closing or not self._alive():
                        return
                    self._take(batch)
            except BatchError as error:  # not a batch's trouble but the store's: whatever is asked of it fails
                logger.error("batches wait %g seconds: %s", RETRY_SECONDS, error)
                self._wake.wait(RETRY_SECONDS)
            else:
                self._wake.wait()

    def _take(self, batch: Batch) -> None:
        """Bring one batch to its end, or as far as closing allows."""
        try:
            self._answer(batch)
        except (BatchError, OSError) as error:
            if self._closing or not self._alive():
                logger.info("%s stops where it is: %s", batch.id, error)
                return
            logger.error("%s has failed: %s", batch.id, error)
            self._fail(batch, "batch_failed", without_paths(str(error), self._store.folder))
        except Exception:
            logger.exception("%s has failed", batch.id)
            self._fail(batch, "server_error", "The server had an error while processing this batch.")

    def _answer(self, batch: Batch) -> None:
        source = self._store.file(batch.input_file_id)
        if source is None:
            self._fail(batch, "input_file_missing", f"{batch.input_file_id} does not exist.")
            return
        with closing(LineFile(self._store.path(source))) as lines:
            if 0 < len(lines) <= MAX_LINES:
                self._answer_lines(batch, lines)
            else:
                what = f"{len(lines)} requests; a batch has 1 to {MAX_LINES}"
                self._fail(batch, "invalid_input_file", f"The input file has {what}.")

    def _answer_lines(self, batch: Batch, lines: LineFile) -> None:
        paths = self._paths(batch, lines.path)
        settings = {**self._settings, "the input's content": lines.digest, "endpoint": batch.endpoint}
        with Job(paths, settings, name=batch.id) as job:
            if not job.complete:
                job.counts.total = len(lines)
                if not self._run_lines(batch, lines, job):
                    self._cut_short(batch, job)
                    return
                self._store.advance(batch.id, "finalizing", only_from=("in_progress",))
                job.finish(job.counts)
            counts = job.counts
        self._store.count(batch.id, counts.total, counts.completed, counts.failed)
        self._store.end(batch.id, "completed", paths.output, paths.errors)

    def _run_lines(self, batch: Batch, lines: LineFile, job: Job) -> bool:
        """Whether every line was answered; otherwise the batch was cancelled, has expired, or the server closes."""
        if self._store.advance(batch.id, "in_progress", only_from=("validating",)).status != "in_progress":
            return False
        answerer = self._answerer(batch.id)
        counted = _Counter(self._store, batch)
        with closing(Pipeline(lines, decoder(batch.endpoint), answerer, done=job.done)) as source:
            runner = Runner(
                iter(source), answerer, job, counts=job.counts, names=job.names, limits=Limits(self._inflight),
                progress=counted,
            )  # fmt: skip
            with self._mutex:
                self._running = (batch.id, runner)
            expiry = threading.Timer(max(0.0, batch.expires_at - time.time()), self._expire, (batch, runner))
            expiry.daemon = True
            expiry.start()
            try:
                # What was asked between the look above and the line before was not told to this runner.
                if self._closing or self._store.known_batch(batch.id).status == "cancelling":
                    return False
                return runner.run()
            finally:
                expiry.cancel()
                with self._mutex:
                    self._running = None
                self._store.count(batch.id, job.counts.total, job.counts.completed, job.counts.failed)

    def _cut_short(self, batch: Batch, job: Job) -> None:
        """End with what there is, unless only this server ends."""
        if self._store.known_batch(batch.id).status == "cancelling":
            status = "cancelled"
        elif batch.id in self._expired:
            status = "expired"
        else:
            return
        job.sync()
        self._store.end(batch.id, status, job.paths.partial_output, job.paths.partial_errors)

    def _expire(self, batch: Batch, runner: Runner) -> None:
        """Called by a timer: its clock, not the one on the wall, says that the day is over."""
        self._expired.add(batch.id)
        runner.stop()

    def _fail(self, batch: Batch, code: str, message: str) -> None:
        found = self._store.known_batch(batch.id)
        if found.status == "cancelling":
            self._store.end(batch.id, "cancelled", None, None)
            return
        errors = json.dumps([{"code": code, "message": message, "param": None, "line": None}])
        self._store.advance(batch.id, "failed", only_from=("validating", "in_progress", "finalizing"), errors=errors)

    def _paths(self, batch: Batch, source: Path) -> Paths:
        folder = self._store.folder / "batches" / batch.id
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Paths(source, folder / "output.jsonl", folder / "errors.jsonl")


class _Counter:
    """Writes a batch's counts down from time to time."""

    def __init__(self, store: Store, batch: Batch):
        self._store, self._batch = store, batch
        self._next = 0.0

    def __call__(self, counts: Counts) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + COUNT_SECONDS
            self._store.count(self._batch.id, counts.total, counts.completed, counts.failed)


def decoder(endpoint: str) -> Decode:
    """OpenAI's lines, all for one endpoint."""

    def decode(number: int, data: Any) -> Item:
        item = openai_item(number, data)
        if item.url != endpoint:
            message = f"url {item.url!r} is not this batch's endpoint {endpoint!r}"
            raise LineError("mismatched_url", message, "url", item.custom_id)
        return item

    return decode


def without_paths(text: str, folder: Path) -> str:
    """The text as clients may see it: how the server's folders are called is nobody's business."""
    return text.replace(f"{folder}/", "").replace(str(folder), "the data folder")
