"""The finite list of shapes the step is compiled for; every iteration runs in the smallest one that holds it."""

from dataclasses import dataclass

SMALLEST = 4  # XLA:CPU runs a product of one row far slower than one of four, and elsewhere it saves nothing
FEW_ROWS = 32


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """A compiled shape: at most `tokens` tokens (T) in at most `rows` rows (R)."""

    tokens: int
    rows: int


def powers(low: int, high: int) -> list[int]:
    """`low`, doubled until `high`, which is always the last."""
    sizes = []
    while low < high:
        sizes.append(low)
        low *= 2
    return [*sizes, high]


def bucket_list(max_rows: int, max_tokens: int) -> tuple[Bucket, ...]:
    """Square buckets up to `max_rows` (iterations of increments, small mixtures), then wider ones at `max_rows`.

    Where `max_rows` is large, the wide ones exist for few rows as well: a long prompt among few increments should not
    pay for the logits of hundreds of rows. Two families instead of a product of sizes keep the list short.
    """
    rows = max(SMALLEST, max_rows)
    tokens = max(rows, max_tokens)
    buckets = {Bucket(n, n) for n in powers(SMALLEST, rows)}
    buckets |= {Bucket(t, rows) for t in powers(SMALLEST, tokens) if t > rows}
    if rows > FEW_ROWS:
        buckets |= {Bucket(t, FEW_ROWS) for t in powers(SMALLEST, tokens) if t > FEW_ROWS}
    return tuple(sorted(buckets))


def thinned(buckets: tuple[Bucket, ...], step: int) -> tuple[Bucket, ...]:
    """Every `step`-th of the squares, and of the wide ones with as many rows, the largest of each first.

    For programs that few iterations run: padding costs those, compiling would cost every start. Whatever fits one of
    `buckets` fits one of these.
    """
    families: dict[int, list[Bucket]] = {}
    for bucket in sorted(buckets, reverse=True):
        families.setdefault(0 if bucket.tokens == bucket.rows else bucket.rows, []).append(bucket)
    return tuple(sorted(bucket for family in families.values() for bucket in family[::step]))


def pinned_bucket(max_rows: int, size: int = 64) -> tuple[Bucket, ...]:
    """The single bucket of deterministic mode: one program, so that no shape can depend on the company."""
    side = max(size, max_rows)
    return (Bucket(side, side),)


def smallest(buckets: tuple[Bucket, ...], tokens: int, rows: int) -> Bucket:
    """The first bucket, in order of tokens and then rows, that holds the iteration."""
    for bucket in buckets:
        if bucket.tokens >= tokens and bucket.rows >= rows:
            return bucket
    raise ValueError(f"an iteration of {tokens} tokens in {rows} rows fits none of the buckets {buckets}")
