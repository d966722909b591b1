"""Attention by itself on the machine at hand: checked against the reference, then timed against the machine's ceilings.

Needs nothing but jax, numpy, jaxtyping and flax beside the repository. A program runs the operation over several layers'
caches, one after the other, so that a call is long enough to be timed and no cache stays in a near memory.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from orca_jax.bench.ceilings import Ceilings, measure_ceilings, median_seconds, noise
from orca_jax.bench.rivals import time_cudnn, time_flashinfer
from pallas_kernels.ragged_paged_attention import (
    Heads,
    from_canonical,
    pages_shape,
    prepare,
    ragged_paged_attention,
    reference,
    resolve,
    write_kv,
)

TOLERANCE = 2e-2  # of the largest value: bfloat16 in and out


@dataclass(frozen=True, slots=True)
class Shape:
    """One call: `(query tokens, K/V tokens)` of each row."""

    name: str
    rows: tuple[tuple[int, int], ...]

    @property
    def tokens(self) -> int:
        return sum(q for q, _ in self.rows)

    def num_bytes(self, heads: Heads) -> float:
        """K and V of every row once, q and the result once, in bfloat16."""
        return 2.0 * heads.dim * (2 * heads.num_kv * sum(kv for _, kv in self.rows) + 2 * heads.num_q * self.tokens)

    def flops(self, heads: Heads) -> float:
        """Scores and weighted sums over the pairs that causality leaves."""
        pairs = sum(q * kv - q * (q - 1) // 2 for q, kv in self.rows)
        return 4.0 * heads.num_q * heads.dim * pairs


SHAPES = (
    Shape("64 increments x 4096", ((1, 4096),) * 64),
    Shape("8 increments x 8192", ((1, 8192),) * 8),
    Shape("1 increment x 8192", ((1, 8192),)),
    Shape("256 increments x 1024", ((1, 1024),) * 256),
    Shape("64 increments x 64..4096", tuple((1, 64 * (1 + i)) for i in range(64))),
    Shape("1 prompt x 8192", ((8192, 8192),)),
    Shape("8 prompts x 1024", ((1024, 1024),) * 8),
    Shape("63 increments + chunk", ((1, 2048),) * 63 + ((1985, 4096),)),
)
CHECKED = (
    Shape("small mixture", ((1, 96), (1, 70), (1, 33), (5, 40), (64, 64))),
    Shape("long rows", ((1, 3001), (1, 2048), (1, 1))),  # many blocks: shares that split a row, a pipeline that wraps
    Shape("long chunk", ((1, 700), (150, 700))),
)
SMALL = (Shape("4 increments x 96", ((1, 96),) * 4), Shape("1 prompt x 64", ((64, 64),)))


@dataclass(frozen=True, slots=True)
class Setup:
    """What all calls of a run share: heads, page size, number of layers (caches), type of q and pages."""

    heads: Heads
    page_size: int
    layers: int
    dtype: Any = jnp.bfloat16


def row_table(shape: Shape, page_size: int, seed: int) -> tuple[tuple[np.ndarray, ...], int]:
    """The four arrays of the operation, with pages scattered over a pool; and the pool's number of pages."""
    used = [-(-kv // page_size) for _, kv in shape.rows]
    free = list(np.random.default_rng(seed).permutation(sum(used)))
    table = np.zeros((len(shape.rows), max(used)), np.int32)
    for r, count in enumerate(used):
        table[r, :count] = [free.pop() for _ in range(count)]
    q_lens, kv_lens = np.array(shape.rows, np.int32).T
    starts = np.concatenate([[0], np.cumsum(q_lens)]).astype(np.int32)
    return (kv_lens, table, starts, np.array([len(shape.rows)], np.int32)), sum(used)


def program(
    shape: Shape, s: Setup, implementation: str, interpret: bool = False
) -> Callable[[Array, list[Array], tuple[Array, ...]], Array]:
    """`(q, caches, table) -> the last result`: each layer attends with what the one before gave, so that none is left out."""

    def run(q: Float[Array, "T H C"], caches: list[Array], table: tuple[Array, ...]) -> Float[Array, "T H C"]:
        how: dict[str, Any] = {"implementation": implementation, "interpret": interpret}
        kind: dict[str, Any] = {"increments": all(q == 1 for q, _ in shape.rows), "dtype": s.dtype}
        meta = prepare(*table, num_tokens=shape.tokens, page_size=s.page_size, heads=s.heads, **kind, **how)
        for pages in caches:
            out = ragged_paged_attention(q, pages, *table, sm_scale=s.heads.dim**-0.5, metadata=meta, **how)
            q = q + out * jnp.asarray(1e-3, q.dtype)
        return out

    return jax.jit(run)


def error_of(implementation: str, s: Setup, interpret: bool = False, shapes: tuple[Shape, ...] = CHECKED) -> float:
    """The largest difference from the float64 definition, as a share of its largest value, over small mixtures."""
    worst = 0.0
    for shape in shapes:
        (kv_lens, table, starts, rows), num_pages = row_table(shape, s.page_size, 1)
        rng = np.random.default_rng(2)
        draw = lambda *axes: jnp.asarray(rng.standard_normal(axes, np.float32), s.dtype)  # noqa: B023  # called below
        q, k, v = (draw(shape.tokens, n, s.heads.dim) for n in (s.heads.num_q, s.heads.num_kv, s.heads.num_kv))
        canonical = draw(num_pages, s.page_size, 2 * s.heads.num_kv, s.heads.dim)
        how: dict[str, Any] = {"implementation": implementation, "interpret": interpret}

        def call(q: Array, k: Array, v: Array, pages: Array, table: tuple[Array, ...]) -> Array:
            pages = write_kv(pages, k, v, *table, **how)  # noqa: B023
            return ragged_paged_attention(q, pages, *table, sm_scale=s.heads.dim**-0.5, **how)  # noqa: B023

        arrays = (kv_lens, table, starts, rows)
        got = jax.jit(call)(q, k, v, from_canonical(implementation, canonical), arrays)
        expected_pages = reference.write_kv(np.asarray(canonical, np.float64), k, v, *arrays)
        expected = reference.ragged_paged_attention(q, expected_pages, *arrays, sm_scale=s.heads.dim**-0.5)
        worst = max(worst, float(np.abs(np.asarray(got, np.float64) - expected).max() / np.abs(expected).max()))
    return worst


def time_shape(shape: Shape, s: Setup, implementation: str, repeats: int, sets: int) -> float:
    """Median seconds of one call of the operation, over `sets` row tables and queries in turn."""
    run, calls = program(shape, s, implementation), []
    _, num_pages = row_table(shape, s.page_size, 0)
    of = (num_pages, s.page_size, s.heads.num_kv, s.heads.dim)
    caches = [noise(layer, pages_shape(implementation, *of), s.dtype) for layer in range(s.layers)]
    for seed in range(sets):
        table = tuple(map(jnp.asarray, row_table(shape, s.page_size, seed)[0]))
        q = jax.random.normal(jax.random.key(seed), (shape.tokens, s.heads.num_q, s.heads.dim), s.dtype)
        calls.append(lambda q=q, table=table: run(q, caches, table))
    return median_seconds(calls, repeats) / s.layers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sizes = dict(heads=32, kv_heads=8, head_dim=128, page_size=32, layers=4, repeats=20, sets=3)
    for name, value in sizes.items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    parser.add_argument("--only", default="", help="shapes whose name contains this")
    parser.add_argument("--small", action="store_true", help="tiny shapes and ceilings: does it run at all?")
    parser.add_argument("--implementation", nargs="+", help="default: the best one here, and xla beside it")


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row for each shape and implementation; the ceilings first."""
    s = Setup(Heads(args.heads, args.kv_heads, args.head_dim), args.page_size, args.layers)
    ceilings = measure_ceilings(2**22, 256, 3) if args.small else measure_ceilings()
    yield {"device": str(jax.devices()[0].device_kind), "backend": jax.default_backend(), **asdict(ceilings)}
    for implementation in args.implementation or dict.fromkeys(
        (resolve(head_dim=args.head_dim, page_size=args.page_size, dtype=s.dtype), "xla")
    ):
        error = error_of(implementation, s, shapes=CHECKED[:1] if args.small else CHECKED)
        yield {"implementation": implementation, "error": error, "right": error < TOLERANCE}
        for shape in SMALL if args.small else SHAPES:
            if args.only in shape.name and error < TOLERANCE:
                yield describe(shape, s, implementation, ceilings, args)


def describe(
    shape: Shape, s: Setup, implementation: str, ceilings: Ceilings, args: argparse.Namespace
) -> dict[str, Any]:
    seconds = time_shape(shape, s, implementation, args.repeats, args.sets)
    num_bytes, flops = shape.num_bytes(s.heads), shape.flops(s.heads)
    (_, page_table, *_), num_pages = row_table(shape, s.page_size, 0)
    rivals = {
        "cudnn_us": time_cudnn(shape.rows, s.heads, s.dtype, args.repeats),
        "flashinfer_us": time_flashinfer(shape.rows, s.heads, s.page_size, page_table, num_pages, args.repeats),
    }
    return {
        "implementation": implementation, "shape": shape.name, "us": 1e6 * seconds, "bytes": num_bytes, "flops": flops,
        "fraction": ceilings.fraction(num_bytes, flops, seconds),
        **{name: None if found is None else 1e6 * found for name, found in rivals.items()},
    }  # fmt: skip


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: the fraction is that of the nearer ceiling, memory or products, as measured in the same run."""
    head = found[0]
    lines = [
        f"{head['device']}: copy {head['bytes_per_second'] / 1e9:.0f} GB/s, bfloat16 product "
        f"{head['flops_per_second'] / 1e12:.1f} TFLOP/s",
        "",
        "| shape | implementation | us | MB | GFLOP | of the ceiling | cuDNN us | FlashInfer us |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in found[1:]:
        if "shape" not in row:
            verdict = "right" if row["right"] else "WRONG: not timed"
            lines.append(
                f"| small mixtures | {row['implementation']} | error {row['error']:.1e}, {verdict} | | | | | |"
            )
            continue
        rivals = " | ".join("-" if row[name] is None else f"{row[name]:.1f}" for name in ("cudnn_us", "flashinfer_us"))
        work = f"{row['bytes'] / 1e6:.1f} | {row['flops'] / 1e9:.2f} | {row['fraction']:.0%}"
        lines.append(f"| {row['shape']} | {row['implementation']} | {row['us']:.1f} | {work} | {rivals} |")
    return "\n".join(lines)
