"""Increments on Hopper: tokens with one query each, whose cost is the reading of their K/V.

A persistent grid shares the line of K/V blocks evenly (see metadata.py). In each program one warpgroup fetches, several
blocks ahead, and the other computes with K/V tokens as wgmma's M and the heads of a group as its N, so that no lane idles
on padded queries: S = K Q^T, then O = V^T P with P through shared memory. Unfinished sums go to a float32 workspace; a
second small kernel adds up the parts of each item.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float

from pallas_kernels.ragged_paged_attention.mosaic_gpu import common
from pallas_kernels.ragged_paged_attention.mosaic_gpu import metadata as columns
from pallas_kernels.ragged_paged_attention.mosaic_gpu.common import COLUMNS, NEG, WGMMA, full
from pallas_kernels.ragged_paged_attention.mosaic_gpu.layout import BLOCK
from pallas_kernels.ragged_paged_attention.mosaic_gpu.metadata import HopperMetadata

COMPUTE, FETCH = range(2)  # warpgroups


def stages(width: int) -> int:
    """Blocks in flight: two programs share a processor's 227 KB."""
    return max(2, 96 * 1024 // (BLOCK * 2 * width * 2))


def attend(
    q: Float[Array, "T KN C"], kv: Float[Array, "rows C2"], meta: HopperMetadata, *, sm_scale, soft_cap, options: dict
) -> Float[Array, "N K C n"]:
    """Results of the singles, in q's type; columns past a group's heads and singles of padding hold anything.

    `q`: for each token and chunk of a group's heads n queries, zeros where the group has no more heads.
    """
    n, per_group = columns.chunks(meta.heads)
    width, items = kv.shape[1] // 2, meta.parts.shape[0]
    slots, depth = items + meta.tuning.single_programs, stages(width)
    shape = lambda dtype, *dims: jax.ShapeDtypeStruct(dims, dtype)
    parts = plgpu.kernel(
        functools.partial(_share, n=n, chunks=per_group, meta=meta, sm_scale=sm_scale, soft_cap=soft_cap),
        out_type=(shape(jnp.float32, slots * width, n), shape(jnp.float32, slots, n), shape(jnp.float32, slots, n)),
        grid=(meta.tuning.single_programs,),
        grid_names=("program",),
        num_threads=2,
        thread_name="warpgroup",
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
        _merge, out_type=shape(q.dtype, items * width, n), grid=(items,), grid_names=("item",), **options
    )(meta.parts, *parts)
    return merged.reshape(-1, meta.heads.num_kv * per_group, width, n)


def _merge(parts, sums, tops, totals, out):
    """One item: its parts added up in their order, each scaled from its own top score to the common one."""
    item = lax.axis_index("item")
    first, count = parts[item, 0], parts[item, 1]
    width, n = out.shape[0] // parts.shape[0], out.shape[1]
    load = functools.partial(plgpu.load, optimized=False)

    def add(i, carry, *, at_once: int):
        """`at_once` parts from the i-th such lot on: their loads are under way together."""
        slots = [first + i * at_once + j for j in range(at_once)]
        tops_here = [load(tops.at[slot], layout=COLUMNS) for slot in slots]
        totals_here = [load(totals.at[slot], layout=COLUMNS) for slot in slots]
        sums_here = [load(sums.at[pl.ds(slot * width, width)], layout=WGMMA) for slot in slots]
        for top_here, total_here, sum_here in zip(tops_here, totals_here, sums_here, strict=True):
            top, total, acc = carry
            new_top = jnp.maximum(top, top_here)
            keep, scale = jnp.exp2(top - new_top), jnp.exp2(top_here - new_top)
            spread = lambda x: lax.broadcast_in_dim(x, (width, n), [1])
            carry = new_top, total * keep + total_here * scale, acc * spread(keep) + sum_here * spread(scale)
        return carry

    @pl.when(count > 0)
    def _():
        at_once = max(1, 8192 // (width * n))  # 64 registers
        lots = lax.div(count, jnp.int32(at_once))
        carry = full((n,), NEG, COLUMNS), full((n,), 0, COLUMNS), full((width, n), 0, WGMMA)
        carry = lax.fori_loop(0, lots, functools.partial(add, at_once=at_once), carry)
        _, total, acc = lax.fori_loop(lots * at_once, count, functools.partial(add, at_once=1), carry)
        done = acc / lax.broadcast_in_dim(total, acc.shape, [1])
        plgpu.store(out.at[pl.ds(item * width, width)], done.astype(out.dtype), optimized=False)


def _share(programs, singles, table, q, kv, sums, tops, totals, q_smem, kv_smem, p_smem, q_full, q_free, full_, free, *,
           n, chunks, meta, sm_scale, soft_cap):  # fmt: skip
    """One program: its share of the line of blocks, item by item."""
    program = lax.axis_index("program")
    get = lambda column: programs[program, column]
    first, count, begin, end = get(columns.FIRST), get(columns.COUNT), get(columns.BEGIN), get(columns.END)
    heads, depth = meta.heads.num_kv * chunks, kv_smem.shape[0]

    def item(s):
        """Item number, its single's entry, its head, and the blocks of it that belong to this share."""
        number = first + s
        j, head = lax.div(number, jnp.int32(heads)), lax.rem(number, jnp.int32(heads))
        at = lambda column: singles[j, column]
        blocks, line = at(columns.BLOCKS), at(columns.LINE)
        start = line + head * blocks
        low, high = jnp.maximum(begin - start, 0), jnp.minimum(end - start, blocks)
        return number, at, head, at(columns.BLOCK0) + low, at(columns.BLOCK0) + high

    @pl.when(lax.axis_index("warpgroup") == COMPUTE)
    def _():
        width = kv_smem.shape[2] // 2

        def one(s, step):
            number, at, _, low, high = item(s)
            stop, first_seen, slot = at(columns.STOP), at(columns.LOW), lax.rem(s, jnp.int32(2))
            plgpu.barrier_wait(q_full.at[slot])

            def block(b, carry):
                step, top, total, acc = carry
                stage = lax.rem(step, jnp.int32(depth))
                plgpu.barrier_wait(full_.at[stage])
                k, v = (kv_smem.at[stage, :, pl.ds(i * width, width)] for i in range(2))
                scores = common.scaled(common.product((k, q_smem.at[slot].transpose((1, 0)))), sm_scale, soft_cap)
                position = b * BLOCK + plgpu.broadcasted_iota(jnp.int32, (BLOCK, n), 0, layout=WGMMA)
                scores = jnp.where((position < stop) & (position >= first_seen), scores, NEG)
                new_top = jnp.maximum(top, scores.max(axis=0))
                weight = jnp.exp2(scores - lax.broadcast_in_dim(new_top, scores.shape, [1]))
                keep = jnp.exp2(top - new_top)
                total = total * lax.broadcast_in_dim(keep, total.shape, [1]) + weight
                turned = plgpu.layout_cast(weight.astype(p_smem.dtype), plgpu.Layout.WGMMA_TRANSPOSED)
                p_smem.transpose((1, 0))[...] = turned

                @pl.when((b + 1) * BLOCK > stop)
                def _():
                    common.zero_tail(kv_smem.at[stage], width, stop - b * BLOCK)

                plgpu.commit_smem()
                part = common.product((v.transpose((1, 0)), p_smem.transpose((1, 0))))
                plgpu.barrier_arrive(free.at[stage])
                return step + 1, new_top, total, acc * lax.broadcast_in_dim(keep, acc.shape, [1]) + part

            start = (step, full((n,), NEG, COLUMNS), full((BLOCK, n), 0, WGMMA), full((width, n), 0, WGMMA))
            step, top, total, acc = lax.fori_loop(low, high, block, start)
            plgpu.barrier_arrive(q_free.at[slot])
            part = number + program
            plgpu.store(sums.at[pl.ds(part * width, width)], acc, optimized=False)
            plgpu.store(tops.at[part], top, optimized=False)
            plgpu.store(totals.at[part], total.sum(axis=0), optimized=False)
            return step

        lax.fori_loop(0, count, one, jnp.int32(0))

    @pl.when(lax.axis_index("warpgroup") == FETCH)
    def _():
        def one(s, step):
            _, at, head, low, high = item(s)
            row, stop, slot = at(columns.ROW), at(columns.STOP), lax.rem(s, jnp.int32(2))
            query = (at(columns.TOKEN) * heads + head) * n

            @pl.when(s >= 2)
            def _():
                plgpu.barrier_wait(q_free.at[slot])

            plgpu.copy_gmem_to_smem(q.at[pl.ds(query, n)], q_smem.at[slot], q_full.at[slot])

            def block(b, step):
                stage = lax.rem(step, jnp.int32(depth))

                @pl.when(step >= depth)
                def _():
                    plgpu.barrier_wait(free.at[stage])

                where = (row, lax.div(head, jnp.int32(chunks)), b, stop)
                common.fetch(kv, table, where, meta.page_size, meta.heads.num_kv, kv_smem.at[stage], full_.at[stage])
                return step + 1

            return lax.fori_loop(low, high, block, step)

        lax.fori_loop(0, count, one, jnp.int32(0))
