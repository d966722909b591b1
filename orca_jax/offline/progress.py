"""What a person sees while the library works: bars for loading, warm-up and generating, on a terminal only."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from orca_jax.core.events import Event, IterationDone

if TYPE_CHECKING:  # a bar that is not shown needs no tqdm
    from tqdm import tqdm


class TokenCounter:
    """An observer of the engine that counts new tokens, for the rate beside the bar."""

    def __init__(self) -> None:
        self.tokens = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, IterationDone):
            self.tokens += event.num_kept


class GenerationBar:
    """Requests done of how many, and new tokens per second. `shown=False` shows nothing, as does a pipe."""

    def __init__(self, total: int, counter: TokenCounter, shown: bool):
        self._counter = counter
        self._first = counter.tokens
        self._start = time.perf_counter()
        self._bar = _bar("generating", total, "request") if shown else None

    def __enter__(self) -> "GenerationBar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, num_finished: int) -> None:
        if self._bar is not None:
            rate = (self._counter.tokens - self._first) / max(time.perf_counter() - self._start, 1e-9)
            self._bar.set_postfix_str(f"{rate:.0f} tokens/s", refresh=False)
            self._bar.update(num_finished)


class StartBars:
    """Bars for the stages of `build_engine`: what is loaded in bytes, what is compiled in programs."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int, what: str) -> None:
        if self._bar is None or stage != self._stage:
            self.close()
            self._stage = stage
            self._bar = _bar(stage, total, "B" if stage == "load" else "program", in_bytes=stage == "load")
        self._bar.total = total
        self._bar.set_postfix_str(what[-40:], refresh=False)
        self._bar.update(done - self._bar.n)

    def tell(self, line: str) -> None:
        """One line where the bars have been: on a terminal only, like them."""
        if sys.stderr.isatty():
            sys.stderr.write(line + "\n")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _bar(name: str, total: int, unit: str, in_bytes: bool = False) -> "tqdm":
    from tqdm import tqdm

    # disable=None: drawn on a terminal, silent where stderr is a file or a pipe
    return tqdm(total=total, desc=name, unit=unit, unit_scale=in_bytes, disable=None, leave=name == "generating")
