"""Prompts and chunks on Hopper: tiles of query rows against the pages of their row.

A query row is a (token, head of the group) pair, so a tile of 128 rows shares its K/V among all heads of the group, and a
chunk of a few tokens fills tiles that single heads would leave empty. In each program of a persistent grid one warpgroup
fetches K/V blocks ahead, across the ends of tiles, and two compute 64 rows each: while one of them works out its weights
the other keeps the tensor cores busy. Blocks that no row of the tile sees are never fetched, and only blocks at the
diagonal or at a window's edge are masked. A tile's results go to a place of their own, so a ragged end overwrites nobody.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float

from pallas_kernels.ragged_paged_attention.mosaic_gpu import common
from pallas_kernels.ragged_paged_attention.mosaic_gpu import metadata as columns
from pallas_kernels.ragged_paged_attention.mosaic_gpu.common import NEG, spread
from pallas_kernels.ragged_paged_attention.mosaic_gpu.layout import ALIGNED, BLOCK
from pallas_kernels.ragged_paged_attention.mosaic_gpu.metadata import HopperMetadata
from pallas_kernels.ragged_paged_attention.mosaic_gpu.ops import ROWS, WGMMA, Ops

COMPUTE, FETCH = 2, 2  # two warpgroups compute, and the third fetches
ROWS_EACH = 64  # query rows of a warpgroup: wgmma's M
REGISTERS_TO_COMPUTE, REGISTERS_TO_FETCH = 232, 40  # of a thread: a processor has 512 for the threads that share a lane


def stages(width: int) -> int:
    """Blocks in flight, in what a processor's 227 KB leave beside queries and weights."""
    return min(6, (208 * 1024 - COMPUTE * ROWS_EACH * (width + BLOCK) * 2) // (BLOCK * 2 * width * 2))


def attend(
    q: Float[Array, "K M C"],
    kv: Float[Array, "rows C2"],
    meta: HopperMetadata,
    *,
    sm_scale,
    soft_cap,
    ops: Ops,
    options: dict,
) -> Float[Array, "K QM C"]:
    """Results of the query rows `q` (see `HopperMetadata.queries`) at the places of their tiles (`HopperMetadata.place`).

    They have q's type; places that belong to no token hold anything.
    """
    heads, width, size = q.shape[0], q.shape[2], columns.tile_rows(meta.heads.dim)
    each = width // COMPUTE if columns.split_columns(meta.heads.dim) else width
    per_page, depth = common.copies(meta.page_size), stages(width)
    run = plgpu.kernel(
        lambda *refs: _Program(*refs, meta=meta, sm_scale=sm_scale, soft_cap=soft_cap, ops=ops).run(),
        out_type=jax.ShapeDtypeStruct((heads * meta.tiles.shape[0] * size, width), q.dtype),
        grid=(meta.tuning.tile_programs,),
        grid_names=("program",),
        num_threads=COMPUTE + 1,
        thread_name="warpgroup",
        kernel_name="attend_tiles",
        scratch_types=[
            common.operand((COMPUTE, width // each, ROWS_EACH, each), q.dtype),
            common.operand((depth, BLOCK, 2 * width), kv.dtype),
            common.operand((COMPUTE, ROWS_EACH, BLOCK), q.dtype),
            plgpu.Barrier(num_arrivals=width // each, num_barriers=COMPUTE),
            plgpu.Barrier(num_arrivals=per_page, num_barriers=depth),
            plgpu.Barrier(num_arrivals=COMPUTE, num_barriers=depth),
            plgpu.Barrier(num_arrivals=COMPUTE),
        ],
        **options,
    )
    return run(meta.num_tiles, meta.tiles, meta.page_table, q.reshape(-1, width), kv).reshape(heads, -1, width)


@dataclasses.dataclass(frozen=True)
class _Program:
    """One program of the grid: every so-manieth pair of a tile and a K/V head, the longest first."""

    num_tiles: Any  # in global memory: the work lists, ...
    tiles: Any
    table: Any
    q: Any
    kv: Any
    out: Any
    q_smem: Any  # ... and in shared memory: queries (by columns that a warpgroup computes), K/V blocks, weights
    kv_smem: Any
    p_smem: Any
    q_ready: Any  # barriers
    ready: Any
    free: Any
    tail: Any
    meta: HopperMetadata
    sm_scale: float
    soft_cap: float | None
    ops: Ops

    def run(self) -> None:
        """Both kinds of warpgroups walk the same tiles; a running number of blocks is what they agree on."""
        me, grid = lax.axis_index("warpgroup"), self.meta.tuning.tile_programs
        work = self.num_tiles[0] * self.meta.heads.num_kv
        count = lax.div(work - lax.axis_index("program") + (grid - 1), jnp.int32(grid))

        @pl.when(me < COMPUTE)
        def compute():
            plgpu.set_max_registers(REGISTERS_TO_COMPUTE, action="increase")
            lax.fori_loop(0, count, functools.partial(self.compute, me=me), jnp.int32(0))

        @pl.when(me == FETCH)
        def fetch():
            plgpu.set_max_registers(REGISTERS_TO_FETCH, action="decrease")
            common.drain(self.free, lax.fori_loop(0, count, self.fetch, jnp.int32(0)))

    def work(self, i):
        """The i-th tile's entry and its K/V head."""
        number, heads = (
            lax.axis_index("program") + i * self.meta.tuning.tile_programs,
            jnp.int32(self.meta.heads.num_kv),
        )
        tile, head = lax.div(number, heads), lax.rem(number, heads)
        return (lambda column: self.tiles[tile, column]), head

    def fetch(self, i, step):
        """Start the copies of a tile's blocks, as soon as there is room."""
        at, head = self.work(i)
        row, stop = at(columns.TILE_ROW), at(columns.TILE_STOP)

        def block(b, step):
            stage = lax.rem(step, jnp.int32(self.kv_smem.shape[0]))
            pl.when(step >= self.kv_smem.shape[0])(lambda: plgpu.barrier_wait(self.free.at[stage]))
            to, landed = self.kv_smem.at[stage], self.ready.at[stage]
            where = (row, head, b, stop)
            common.fetch(self.kv, self.table, where, self.meta.page_size, self.meta.heads.num_kv, to, landed)
            return step + 1

        return lax.fori_loop(at(columns.TILE_BLOCK0), at(columns.TILE_BLOCK1), block, step)

    def compute(self, i, step, *, me):
        """Attention of this warpgroup's share of a tile: half of its rows, or all of them and half of the columns."""
        at, head = self.work(i)
        heads, parts, each = self.meta.heads.num_kv, self.q_smem.shape[1], self.q_smem.shape[3]
        rows, first = (0, me * each) if columns.split_columns(self.meta.heads.dim) else (me * ROWS_EACH, 0)
        query = head * (self.q.shape[0] // heads) + at(columns.TILE_QUERY) + rows
        for part in range(parts):
            source = self.q.at[pl.ds(pl.multiple_of(query, ALIGNED), ROWS_EACH), pl.ds(part * each, each)]
            plgpu.copy_gmem_to_smem(source, self.q_smem.at[me, part], self.q_ready.at[me])
        row = at(columns.TILE_AT) + rows + self.ops.iota((ROWS_EACH,), 0, ROWS)
        position = lax.div(row, jnp.int32(self.meta.heads.group))  # of each row's token
        plgpu.barrier_wait(self.q_ready.at[me])
        plain, stop = (
            (at(columns.TILE_PLAIN0), at(columns.TILE_PLAIN1)),
            at(columns.TILE_STOP),
        )  # read once, not by block
        values = pl.ds(parts * each + first, each)
        block = functools.partial(self.block, me=me, plain=plain, stop=stop, position=position, values=values)
        start = (
            self.ops.full((ROWS_EACH,), NEG, ROWS),
            self.ops.full((ROWS_EACH,), 0, ROWS),
            self.ops.full((ROWS_EACH, each), 0, WGMMA),
        )
        step, _, total, acc = lax.fori_loop(at(columns.TILE_BLOCK0), at(columns.TILE_BLOCK1), block, (step, *start))
        done = acc / spread(total, acc.shape, 0)
        self.q_smem.at[me, 0][...] = done.astype(self.q_smem.dtype)  # the queries have been used
        plgpu.commit_smem()
        size = columns.tile_rows(self.meta.heads.dim)
        place = head * (self.out.shape[0] // heads) + at(columns.TILE_PLACE) * size + rows
        plgpu.copy_smem_to_gmem(self.q_smem.at[me, 0], self.out.at[pl.ds(place, ROWS_EACH), pl.ds(first, each)])
        plgpu.wait_smem_to_gmem(0)
        return step

    def block(self, b, carry, *, me, plain, stop, position, values):
        """One more block in the running softmax."""
        step, top, total, acc = carry
        stage, each = lax.rem(step, jnp.int32(self.kv_smem.shape[0])), acc.shape[1]
        plgpu.barrier_wait(self.ready.at[stage])
        k = [self.kv_smem.at[stage, :, pl.ds(i * each, each)] for i in range(self.q_smem.shape[1])]
        pairs = [(self.q_smem.at[me, i], self.ops.turned(half)) for i, half in enumerate(k)]
        scores = common.scaled(self.ops.product(*pairs), self.sm_scale, self.soft_cap)
        unmasked = (b >= plain[0]) & (b < plain[1])
        # one loop with a branch in it, not three loops: these kept so much at hand that registers were spilled
        scores = lax.cond(unmasked, lambda x: x, functools.partial(self.masked, b=b, position=position), scores)
        new_top = jnp.maximum(top, scores.max(axis=1))
        weight = jnp.exp2(scores - spread(new_top, scores.shape, 0))
        keep = jnp.exp2(top - new_top)
        self.p_smem.at[me][...] = weight.astype(self.p_smem.dtype)
        self.clean(b, stage, me, stop)
        plgpu.commit_smem()
        part = self.ops.product((self.p_smem.at[me], self.kv_smem.at[stage, :, values]))
        plgpu.barrier_arrive(self.free.at[stage])
        return step + 1, new_top, total * keep + weight.sum(axis=1), acc * spread(keep, acc.shape, 0) + part

    def masked(self, scores, *, b, position):
        """Scores of what a row's token sees; it stands at `position`."""
        column = b * BLOCK + self.ops.iota(scores.shape, 1, WGMMA)
        seen = column <= spread(position, scores.shape, 0)
        if self.meta.sliding_window is not None:
            seen &= column > spread(position - self.meta.sliding_window, scores.shape, 0)
        return jnp.where(seen, scores, NEG)

    def clean(self, b, stage, me, stop) -> None:
        """Zero what lies behind the end of the K/V: one warpgroup does it, the other waits."""

        @pl.when((b + 1) * BLOCK > stop)
        def last_block():
            @pl.when(me == 0)
            def zero():
                common.zero_tail(self.ops, self.kv_smem.at[stage], self.kv_smem.shape[2] // 2, stop - b * BLOCK)
                plgpu.commit_smem()

            plgpu.barrier_arrive(self.tail)
            plgpu.barrier_wait(self.tail)
