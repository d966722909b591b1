"""What a person sees of a running batch: how many lines, how many tokens a second, how long it will take."""

import time

from orca_jax.batch.words import Counts


class BatchBar:
    """A bar on a terminal, nothing elsewhere. What an earlier run has answered counts as done, but not for the rate."""

    def __init__(self, counts: Counts):
        from tqdm import tqdm

        self._done = counts.completed + counts.failed
        self._began = time.perf_counter()
        self._bar = tqdm(total=counts.total, initial=self._done, desc="answering", unit="line", disable=None)

    def __call__(self, counts: Counts) -> None:
        rate = counts.output_tokens / max(time.perf_counter() - self._began, 1e-9)
        failed = f", {counts.failed} failed" if counts.failed else ""
        self._bar.set_postfix_str(f"{rate:.0f} tokens/s{failed}", refresh=False)
        done = counts.completed + counts.failed
        self._bar.update(done - self._done)
        self._done = done

    def close(self) -> None:
        self._bar.close()
