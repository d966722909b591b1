"""Increments on Hopper: tokens with one query each, whose cost is the reading of their K/V.

A persistent grid shares the line of K/V blocks evenly (see metadata.py). In each program one warpgroup fetches, several
blocks ahead, and the other computes with K/V tokens as wgmma's M and the heads of a group as its N, so that no lane idles
on padded queries: S = K Q^T, then O = V^T P with P through shared memory. Unfinished sums go to a float32 workspace; a
second small kernel adds up the parts of each item.
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
from pallas_kernels.ragged_paged_attention.mosaic_gpu.layout import BLOCK
from pallas_kernels.ragged_paged_attention.mosaic_gpu.metadata import HopperMetadata
from pallas_kernels.ragged_paged_attention.mosaic_gpu.ops import COLUMNS, WGMMA, Ops

COMPUTE, FETCH = range(2)  # warpgroups


def stages(width: int) -> int:
    """Blocks in flight: two programs share a processor's 227 KB."""
    return max(2, 96 * 1024 // (BLOCK * 2 * width * 2))


def attend(
    q: Float[Array, "T KN C"],
    kv: Float[Array, "rows C2"],
    meta: HopperMetadata,
    *,
    sm_scale,
    soft_cap,
    ops: Ops,
    options: dict,
) -> Float[Array, "N K C n"]:
    """Results of the singles, in q's type; columns past a group's heads and singles of padding hold anything.

    `q`: for each token and chunk of a group's heads n queries, zeros where the group has no more heads.
    """
    n, per_group = columns.chunks(meta.heads)
    width, items = kv.shape[1] // 2, meta.parts.shape[0]
    slots, depth = items + meta.tuning.single_programs, stages(width)
    shape = lambda dtype, *dims: jax.ShapeDtypeStruct(dims, dtype)
    kind = dict(meta=meta, n=n, chunks=per_group, sm_scale=sm_scale, soft_cap=soft_cap, ops=ops)
    parts = plgpu.kernel(
        lambda *refs: _Share(*refs, **kind).run(),
        out_type=(shape(jnp.float32, slots * width, n), shape(jnp.float32, slots, n), shape(jnp.float32, slots, n)),
        grid=(meta.tuning.single_programs,),
        grid_names=("program",),
        num_threads=2,
        thread_name="warpgroup",
        kernel_name="attend_singles",
        scratch_types=[
            common.operand((2, n, width), q.dtype),
            common.operand((depth, BLOCK, 2 * width), kv.dtype),
            common.operand((n, BLOCK), q.dtype),
            plgpu.Barrier(num_barriers=2),
            plgpu.Barrier(num_barriers=2),
            plgpu.Barrier(num_arrivals=common.copies(meta.page_size), num_barriers=depth),
            plgpu.Barrier(num_barriers=depth),
        ],
        **options,
    )(meta.programs, meta.singles, meta.page_table, q.reshape(-1, width), kv)
    merged = plgpu.kernel(
        functools.partial(_merge, ops=ops),
        out_type=shape(q.dtype, items * width, n),
        grid=(items,),
        grid_names=("item",),
        kernel_name="merge_singles",
        **options,
    )(meta.parts, *parts)
    return merged.reshape(-1, meta.heads.num_kv * per_group, width, n)


@dataclasses.dataclass(frozen=True)
class _Share:
    """One program of the grid: its share of the line of blocks, item by item."""

    programs: Any  # in global memory: the work lists, ...
    singles: Any
    table: Any
    q: Any
    kv: Any
    sums: Any  # ... the parts of the results, ...
    tops: Any
    totals: Any
    q_smem: Any  # ... and in shared memory: queries of this item and the next, K/V blocks, weights
    kv_smem: Any
    p_smem: Any
    q_ready: Any  # barriers
    q_free: Any
    ready: Any
    free: Any
    meta: HopperMetadata
    n: int
    chunks: int
    sm_scale: float
    soft_cap: float | None
    ops: Ops

    @property
    def heads(self) -> int:
        """Items in a single."""
        return self.meta.heads.num_kv * self.chunks

    def run(self) -> None:
        """Both warpgroups walk the same items; a running number of blocks is what they agree on."""
        count = self.programs[lax.axis_index("program"), columns.COUNT]

        @pl.when(lax.axis_index("warpgroup") == COMPUTE)
        def compute():
            lax.fori_loop(0, count, self.compute, jnp.int32(0))

        @pl.when(lax.axis_index("warpgroup") == FETCH)
        def fetch():
            step = lax.fori_loop(0, count, self.fetch, jnp.int32(0))
            common.drain(self.free, step)
            common.drain(self.q_free, count)

    def item(self, s):
        """The s-th item's number, its single's entry, its head, and its blocks that belong to this share."""
        get = lambda column: self.programs[lax.axis_index("program"), column]
        number, heads = get(columns.FIRST) + s, jnp.int32(self.heads)
        j, head = lax.div(number, heads), lax.rem(number, heads)
        at = lambda column: self.singles[j, column]
        blocks, start = at(columns.BLOCKS), at(columns.LINE) + head * at(columns.BLOCKS)
        low = jnp.maximum(get(columns.BEGIN) - start, 0)
        high = jnp.minimum(get(columns.END) - start, blocks)
        return number, at, head, at(columns.BLOCK0) + low, at(columns.BLOCK0) + high

    def fetch(self, s, step):
        """Start the copies of an item's queries and blocks, as soon as there is room."""
        _, at, head, low, high = self.item(s)
        row, stop, slot = at(columns.ROW), at(columns.STOP), lax.rem(s, jnp.int32(2))
        query = (at(columns.TOKEN) * self.heads + head) * self.n
        pl.when(s >= 2)(lambda: plgpu.barrier_wait(self.q_free.at[slot]))
        plgpu.copy_gmem_to_smem(self.q.at[pl.ds(query, self.n)], self.q_smem.at[slot], self.q_ready.at[slot])

        def block(b, step):
            stage = lax.rem(step, jnp.int32(self.kv_smem.shape[0]))
            pl.when(step >= self.kv_smem.shape[0])(lambda: plgpu.barrier_wait(self.free.at[stage]))
            where = (row, lax.div(head, jnp.int32(self.chunks)), b, stop)
            to, landed = self.kv_smem.at[stage], self.ready.at[stage]
            common.fetch(self.kv, self.table, where, self.meta.page_size, self.meta.heads.num_kv, to, landed)
            return step + 1

        return lax.fori_loop(low, high, block, step)

    def compute(self, s, step):
        """Attention of an item over its blocks of this share; the result is a part, not yet divided by its total."""
        number, at, _, low, high = self.item(s)
        slot, width, part = lax.rem(s, jnp.int32(2)), self.kv_smem.shape[2] // 2, number + lax.axis_index("program")
        block = functools.partial(self.block, q=self.q_smem.at[slot], stop=at(columns.STOP), first=at(columns.LOW))
        plgpu.barrier_wait(self.q_ready.at[slot])
        start = (
            self.ops.full((self.n,), NEG, COLUMNS),
            self.ops.full((BLOCK, self.n), 0, WGMMA),
            self.ops.full((width, self.n), 0, WGMMA),
        )
        step, top, total, acc = lax.fori_loop(low, high, block, (step, *start))
        plgpu.barrier_arrive(self.q_free.at[slot])
        self.ops.store(self.sums.at[pl.ds(part * width, width)], acc)
        self.ops.store(self.tops.at[part], top)
        self.ops.store(self.totals.at[part], total.sum(axis=0))
        return step

    def block(self, b, carry, *, q, stop, first):
        """One more block in the running softmax. The totals stay apart by K/V token until the end: no sum across lanes."""
        step, top, total, acc = carry
        stage, width = lax.rem(step, jnp.int32(self.kv_smem.shape[0])), acc.shape[0]
        plgpu.barrier_wait(self.ready.at[stage])
        k, v = (self.kv_smem.at[stage, :, pl.ds(i * width, width)] for i in range(2))
        scores = common.scaled(self.ops.product((k, self.ops.turned(q))), self.sm_scale, self.soft_cap)
        position = b * BLOCK + self.ops.iota(scores.shape, 0, WGMMA)
        scores = jnp.where((position < stop) & (position >= first), scores, NEG)
        new_top = jnp.maximum(top, scores.max(axis=0))
        weight = jnp.exp2(scores - spread(new_top, scores.shape, 1))
        keep = jnp.exp2(top - new_top)
        turned = self.ops.cast(weight.astype(self.p_smem.dtype), plgpu.Layout.WGMMA_TRANSPOSED)
        self.ops.assign(self.ops.turned(self.p_smem), turned)
        pl.when((b + 1) * BLOCK > stop)(
            lambda: common.zero_tail(self.ops, self.kv_smem.at[stage], width, stop - b * BLOCK)
        )
        plgpu.commit_smem()
        part = self.ops.product((self.ops.turned(v), self.ops.turned(self.p_smem)))
        plgpu.barrier_arrive(self.free.at[stage])
        return step + 1, new_top, total * spread(keep, total.shape, 1) + weight, acc * spread(keep, acc.shape, 1) + part


def _merge(parts, sums, tops, totals, out, *, ops: Ops) -> None:
    """One item: its parts added up in their order, each scaled from its own top score to the common one."""
    item = lax.axis_index("item")
    first, count = parts[item, 0], parts[item, 1]
    shape = width, n = out.shape[0] // parts.shape[0], out.shape[1]

    def add(i, carry, *, at_once: int):
        """The i-th lot of `at_once` parts: their loads are under way together."""
        slots = [first + i * at_once + j for j in range(at_once)]
        vectors = [[ops.load(ref.at[slot], COLUMNS) for ref in (tops, totals)] for slot in slots]
        sums_here = [ops.load(sums.at[pl.ds(slot * width, width)], WGMMA) for slot in slots]
        for (top_here, total_here), sum_here in zip(vectors, sums_here, strict=True):
            top, total, acc = carry
            new_top = jnp.maximum(top, top_here)
            keep, scale = jnp.exp2(top - new_top), jnp.exp2(top_here - new_top)
            acc = acc * spread(keep, shape, 1) + sum_here * spread(scale, shape, 1)
            carry = new_top, total * keep + total_here * scale, acc
        return carry

    @pl.when(count > 0)
    def _():
        at_once = max(1, 8192 // (width * n))  # 64 registers
        lots = lax.div(count, jnp.int32(at_once))
        carry = ops.full((n,), NEG, COLUMNS), ops.full((n,), 0, COLUMNS), ops.full(shape, 0, WGMMA)
        carry = lax.fori_loop(0, lots, functools.partial(add, at_once=at_once), carry)
        _, total, acc = lax.fori_loop(lots * at_once, count, functools.partial(add, at_once=1), carry)
        done = acc / spread(total, shape, 1)
        ops.store(out.at[pl.ds(item * width, width)], done.astype(out.dtype))
