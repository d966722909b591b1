"""From documents to batches, with grain: shuffled, packed, and resumable at the very batch where a run stopped."""

from collections.abc import Sequence
from typing import Any

import grain
import numpy as np
from jaxtyping import Int

Batch = dict[str, Int[np.ndarray, "B N"]]
"""`inputs`, `targets` (the next token) and `segments` (1, 2, ...: which document of the window), int32."""

SHUFFLED_WINDOWS = 256
"""Windows that wait to be drawn at random: a long module would otherwise fill a whole batch by itself."""


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


def batches(documents: Sequence[Int[np.ndarray, " n"]], *, end: int, length: int, batch: int, seed: int) -> grain.IterDataset:
    """Endless batches of `batch` windows of `length` tokens; documents are shuffled anew in every epoch.

    The iterator's `get_state` and `set_state` continue it anywhere, in the middle of an epoch too.
    """
    shuffled = (
        grain.MapDataset.source(documents)
        .seed(seed)
        .map(lambda ids: _next_token(ids, end))
        .shuffle()
        .repeat(None, reseed_each_epoch=True)
        .to_iter_dataset()
    )
    packed = grain.experimental.ConcatThenSplitIterDataset(shuffled, length_struct={"inputs": length, "targets": length})
    mixed = grain.experimental.WindowShuffleIterDataset(packed, window_size=SHUFFLED_WINDOWS, seed=seed)
    return mixed.map(_named).batch(batch, drop_remainder=True)
