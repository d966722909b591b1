"""Bits per byte on modules the model has not seen: a measure that does not depend on the tokenizer."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

Losses = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""`(inputs, targets, segments) [B, N] -> nats [B, N]`."""


def held_out_windows(documents: Sequence[Int[np.ndarray, " n"]], *, end: int, length: int) -> tuple[np.ndarray, ...]:
    """Inputs, targets, segments and a mask of what counts, each `[W, length]`.

    Windows overlap by half, and past a document's first window only the second half counts: every token is predicted
    once, with at least half a window of context where the document has it.
    """
    rows: list[tuple[np.ndarray, ...]] = []
    stride = length // 2
    for ids in documents:
        inputs = np.concatenate([[end], ids]).astype(np.int32)
        targets = np.append(ids, end).astype(np.int32)
        for start in range(0, max(1, len(inputs) - stride), stride):
            counted = np.zeros(length, bool)
            part = slice(start, start + length)
            n = len(inputs[part])
            counted[stride if start else 0 : n] = True
            padding = (0, length - n)
            rows.append(
                (np.pad(inputs[part], padding), np.pad(targets[part], padding), np.ones(length, np.int32), counted)
            )
    return tuple(np.stack(column) for column in zip(*rows, strict=True))


def bits_per_byte(losses: Losses, windows: tuple[np.ndarray, ...], num_bytes: int, batch: int) -> float:
    """Held-out bits for each byte of text; the end of each document is counted among the bits."""
    inputs, targets, segments, counted = windows
    nats = 0.0
    for start in range(0, len(inputs), batch):
        rows = np.arange(start, start + batch) % len(inputs)  # the last batch wraps, so that one shape is compiled
        loss = np.asarray(losses(inputs[rows], targets[rows], segments[rows]), np.float64)
        fresh = np.arange(start, start + batch) < len(inputs)
        nats += float((loss * counted[rows] * fresh[:, None]).sum())
    return nats / math.log(2) / num_bytes
