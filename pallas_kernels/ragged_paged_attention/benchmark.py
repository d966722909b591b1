"""Time write + attention over many layers in one step: `python -m pallas_kernels.ragged_paged_attention.benchmark`.

The shape is a 135M Llama's (30 layers, 9 query and 3 K/V heads of 64) and the mixtures are what an engine's steps look
like; caches are donated, one per layer, and the row table's metadata is worked out once in each step.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from pallas_kernels.ragged_paged_attention import api, metadata


@dataclasses.dataclass(frozen=True)
class Mixture:
    """One kind of iteration: (query tokens, K/V tokens) of each row, and the bucket it is padded to."""

    name: str
    rows: tuple[tuple[int, int], ...]
    tokens: int
    bucket_rows: int


MIXTURES = (
    Mixture("4 singles x 160", ((1, 160),) * 4, 4, 4),
    Mixture("16 singles x 160", ((1, 160),) * 16, 16, 16),
    Mixture("16 singles x 80..1280", tuple((1, 80 * (1 + i)) for i in range(16)), 16, 16),
    Mixture("15 singles + 241 of 300", ((1, 160),) * 15 + ((241, 300),), 256, 16),
    Mixture("256 of 256", ((256, 256),), 256, 16),
    Mixture("256 of 2048", ((256, 2048),), 256, 16),
)


def tables(mixture: Mixture, page_size: int, max_len: int) -> tuple[tuple[np.ndarray, ...], int]:
    """Row-table arrays of a mixture with scattered pages, and the number of pages they draw from."""
    rows, per_row = mixture.bucket_rows, max_len // page_size
    num_pages = 4096 * 4 // page_size
    free = list(np.random.default_rng(0).permutation(num_pages))
    kv_lens, table = np.zeros(rows, np.int32), np.zeros((rows, per_row), np.int32)
    cu = np.zeros(rows + 1, np.int32)
    for r, (q_len, kv_len) in enumerate(mixture.rows):
        kv_lens[r], cu[r + 1 :] = kv_len, cu[r] + q_len
        used = -(-kv_len // page_size)
        table[r, :used] = [free.pop() for _ in range(used)]
    return (kv_lens, table, cu, np.array([len(mixture.rows)], np.int32)), num_pages


def prepared(mixture: Mixture, args: argparse.Namespace) -> tuple[Callable[[], jax.Array], float]:
    """A call that runs one step over all layers, and the seconds that compiling it took."""
    rows, num_pages = tables(mixture, args.page_size, args.max_len)
    make = lambda *shape: jax.random.normal(jax.random.key(0), shape)
    q = make(mixture.tokens, args.heads, args.head_dim)
    k = make(mixture.tokens, args.kv_heads, args.head_dim)
    tuning = metadata.Tuning(**{f.name: getattr(args, f.name) for f in dataclasses.fields(metadata.Tuning)})

    @jax.jit  # one trace, and one compilation, for all layers
    def layer(q, pages, meta, rows):
        pages = api.write_kv(pages, k, k, *rows, implementation="xla", metadata=meta)
        out = api.ragged_paged_attention(
            q, pages, *rows, sm_scale=0.125, uniform=args.uniform, implementation="xla", metadata=meta
        )
        return q + 0.01 * out, pages

    def step(q, caches, rows):
        heads = api.Heads(args.heads, args.kv_heads, args.head_dim)
        kind = dict(page_size=args.page_size, uniform=args.uniform, tuning=tuning, heads=heads)
        meta = api.prepare(*rows, num_tokens=mixture.tokens, implementation="xla", **kind)
        out = []
        for pages in caches:
            q, pages = layer(q, pages, meta, rows)
            out.append(pages)
        return q, out

    shape = api.pages_shape("xla", num_pages, args.page_size, args.kv_heads, args.head_dim)
    caches = [make(*shape).astype(args.dtype) for _ in range(args.layers)]
    began = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=1).lower(q, caches, rows).compile()
    compile_time = time.perf_counter() - began

    def run() -> jax.Array:
        nonlocal caches
        out, caches = compiled(q, caches, rows)
        return jax.block_until_ready(out)

    return run, compile_time


def measure(run: Callable[[], jax.Array], repeats: int) -> list[float]:
    """Milliseconds of each repeat, after two that do not count."""
    times = []
    for _ in range(repeats + 2):
        began = time.perf_counter()
        run()
        times.append((time.perf_counter() - began) * 1e3)
    return times[2:]


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="bfloat16", help="of the cache")
    sizes = dict(layers=30, heads=9, kv_heads=3, head_dim=64, page_size=32, max_len=2048, repeats=15)
    for name, value in {**sizes, **dataclasses.asdict(metadata.Tuning())}.items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    parser.add_argument("--uniform", action="store_true")
    parser.add_argument("--only", default="", help="mixtures whose name contains this")
    return parser.parse_args(argv)


def main() -> None:
    """Print a table of all mixtures."""
    args = arguments()
    print(f"jax {jax.__version__}, {jax.default_backend()}, {vars(args)}")
    print(f"{'mixture':28} {'lowest':>8} {'median':>8} {'highest':>8}  ms, compile s")
    for mixture in MIXTURES:
        if args.only in mixture.name:
            run, compile_time = prepared(mixture, args)
            times = measure(run, args.repeats)
            low, middle, high = min(times), statistics.median(times), max(times)
            print(f"{mixture.name:28} {low:8.2f} {middle:8.2f} {high:8.2f}  {compile_time:.1f}", flush=True)


if __name__ == "__main__":
    main()
