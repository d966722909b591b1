"""A run's files, opened where the last run left them: what is answered already, and where the rest is written."""

import fcntl
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orca_jax.batch.append_file import AppendFile, OsFile
from orca_jax.batch.names import Names
from orca_jax.batch.paths import Paths
from orca_jax.batch.records import DUPLICATE, Records, code_of, number_of
from orca_jax.batch.state import COMPLETE, RUNNING, State, plain, read_state, sync_folder
from orca_jax.batch.words import Answered, BatchError, Counts, Result


class Job:
    """The files of one run, which no other process writes meanwhile. Results are safe once `sync` has returned.

    `done` are the numbers of the lines that need no answer any more, `names` the custom ids that are taken, `counts`
    what the files hold. `complete` says that an earlier run has finished: there is nothing left to do.
    """

    def __init__(self, paths: Paths, settings: Mapping[str, Any], *, restart: bool = False, name: str = ""):
        self.paths = paths
        self.settings = plain(settings)
        self.done: set[int] = set()
        self.names = Names()
        self.counts = Counts()
        self._records = Records(name)
        self._files: list[AppendFile] = []
        paths.check()
        try:
            self.complete = self._open(restart)
        except OSError as error:
            self.close()
            raise BatchError(f"cannot write {error.filename or paths.output}: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise

    def write(self, results: Sequence[Result]) -> None:
        """Append results to their files, whole or (BatchError) not at all in the file that is named."""
        output, errors = self._files
        answered = [result for result in results if isinstance(result.outcome, Answered)]
        output.append([self._records.line(result) for result in answered])
        errors.append([self._records.line(result) for result in results if not isinstance(result.outcome, Answered)])

    def sync(self) -> None:
        for file in self._files:
            file.sync()

    def finish(self, counts: Counts) -> None:
        """Give the files their names, the output last. Killed in between, the next run does the rest.

        Raises BatchError where they do not hold as many lines as there are.
        """
        done = counts.completed + counts.failed
        if done != counts.total:
            raise BatchError(f"{self.paths.output} has {done} of {counts.total} lines (--restart begins anew)")
        self.sync()
        output, errors = self._files
        state = State(COMPLETE, self.settings, counts.completed, counts.failed, output.size, errors.size)
        state.write(self.paths.state)
        self._settle(state)

    def close(self) -> None:
        """Give the files back to whoever comes next. Idempotent."""
        for file in self._files:
            file.close()
        self._files = []

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open(self, restart: bool) -> bool:
        """Whether all is done already; otherwise the files are open and their records known."""
        paths = self.paths
        state = None if restart else read_state(paths.state)
        complete = state is not None and state.status == COMPLETE
        if state is None and not restart:
            self._refuse_foreign()
        if state is not None and complete:
            state.check_same(self.settings, paths.output)
            if not any(path.exists() for path in _partials(paths)):
                return self._ended(state)
        for path in _partials(paths):
            self._files.append(self._locked(path))
        if restart:
            self._forget()
        elif read_state(paths.state) != state:
            raise BatchError(f"{paths.output} is being written by another process (wait for it)")
        if state is not None and complete:
            return self._ended(state)
        if state is not None and self._any_written():  # a run that got nowhere binds nobody
            state.check_same(self.settings, paths.output)
        if state is None or state.settings != self.settings:
            State(RUNNING, self.settings).write(paths.state)
        for file in self._files:
            file.recover(self._accept)
        return False

    def _ended(self, state: State) -> bool:
        """Finish what a run that was killed at its very end has left."""
        self._settle(state)
        self.counts = Counts(state.completed + state.failed, state.completed, state.failed)
        return True

    def _any_written(self) -> bool:
        return any(path.exists() and path.stat().st_size for path in _partials(self.paths))

    def _refuse_foreign(self) -> None:
        """Raise BatchError where there are files under our names, but nothing says what they were made from."""
        for path in (self.paths.output, self.paths.errors):
            if os.path.lexists(path):
                raise BatchError(f"{path} exists, and is not the result of a batch (--restart replaces it)")
        for path in _partials(self.paths):
            if path.exists() and path.stat().st_size:
                raise BatchError(f"{path} exists, but {self.paths.state} is missing (--restart begins anew)")

    def _locked(self, path: Path) -> AppendFile:
        raw = OsFile(path)
        try:
            fcntl.flock(raw.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raw.close()
            raise BatchError(f"{path} is being written by another process (wait for it)") from None
        return AppendFile(raw, str(path))

    def _forget(self) -> None:
        """Remove what earlier runs have left, the state first: without it nobody goes on from the rest."""
        for path in (self.paths.state, self.paths.output, self.paths.errors):
            path.unlink(missing_ok=True)
        for file in self._files:
            file.raw.truncate(0)

    def _accept(self, record: dict[str, Any]) -> bool:
        """Take note of a record that an earlier run has written."""
        number, custom_id = number_of(record), record.get("custom_id")
        if number is None or number in self.done:
            return False
        code = code_of(record)
        if isinstance(custom_id, str) and code != DUPLICATE:
            self.names.claim(custom_id, number)
        self.done.add(number)
        self.counts.completed += code is None
        self.counts.failed += code is not None
        return True

    def _settle(self, state: State) -> None:
        """Rename what is complete; a file of errors only where there are any.

        A partial file of another size is none of this run's: two processes that began at once may leave an empty one.
        """
        paths = self.paths
        both = (
            (paths.partial_errors, paths.errors, state.error_bytes),
            (paths.partial_output, paths.output, state.output_bytes),
        )
        for partial, final, size in both:
            wanted = size > 0 or final == paths.output
            if wanted and not final.exists():
                if not partial.exists() or partial.stat().st_size != size:
                    raise BatchError(f"{final} was complete, but is missing (--restart answers all again)")
                partial.replace(final)
            partial.unlink(missing_ok=True)
        for folder in {paths.output.parent, paths.errors.parent}:
            sync_folder(folder)


def _partials(paths: Paths) -> tuple[Path, Path]:
    return paths.partial_output, paths.partial_errors
