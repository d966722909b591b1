"""From documents to batches, with grain: shuffled, packed, and resumable at the very batch where a run stopped."""

from collections.abc import Sequence
from typing import Any

import grain
import numpy as np
from jaxtyping import Int

Batch = dict[str, Int[np.ndarray, "B N"]]
"""`inputs`, `targets` (the next token) and `segments` (1, 2, ...: which document of the window), int32."""


def _next_token(ids: Int[np.ndarray, " n"], end: int) -> dict[str, Int[np.ndarray, " m"]]:
    """A document predicts its first token from the end-of-sequence, and the end-of-sequence from its last."""
    ids = np.asarray(ids, np.int32)
    return {"inputs": np.concatenate([[end], ids], dtype=np.int32), "targets": np.append(ids, np.int32(end))}


def _named(window: dict[str, Any]) -> Batch:
    return {
        "inputs": window["inputs"].astype(np.int32),
        "targets": window["targets"].astype(np.int32),
        "segments": window["inputs_segment_ids"].astype(np.int32),
    }


def batches(
    documents: Sequence[Int[np.ndarray, " n"]], *, end: int, length: int, batch: int, seed: int, waiting: int = 256
) -> grain.IterDataset:
    """Endless batches of `batch` windows of `length` tokens; documents are shuffled anew in every epoch.

    So many windows are `waiting` to be drawn at random: a long module would otherwise fill a whole batch by itself.
    The iterator's `get_state` and `set_state` continue it anywhere, in the middle of an epoch too (see `restored`).
    """
    shuffled = (
        grain.MapDataset.source(documents)
        .seed(seed)
        .map(lambda ids: _next_token(ids, end))
        .shuffle()
        .repeat(None, reseed_each_epoch=True)
        .to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))  # it is all in memory
    )
    packed = grain.experimental.ConcatThenSplitIterDataset(
        shuffled, length_struct={"inputs": length, "targets": length}
    )
    mixed = grain.experimental.WindowShuffleIterDataset(packed, window_size=waiting, seed=seed)
    return mixed.map(_named).batch(batch, drop_remainder=True)


def restored(state: Any) -> Any:
    """An iterator's state that has been through JSON, as `set_state` wants it.

    JSON makes lists of the tuples in it; the packing then takes its "nothing is left over" for a left-over piece and
    silently goes on with other windows.
    """
    if isinstance(state, dict):
        return {key: restored(value) for key, value in state.items()}
    return tuple(restored(value) for value in state) if isinstance(state, list) else state
