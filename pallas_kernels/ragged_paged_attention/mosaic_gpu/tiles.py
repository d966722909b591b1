"""Prompts and chunks on Hopper: tiles of query rows against the pages of their row.

A query row is a (token, head of the group) pair, so a tile of 128 rows shares its K/V among all heads of the group, and a
chunk of a few tokens fills tiles that single heads would leave empty. In each program of a persistent grid one warpgroup
fetches K/V blocks ahead, across the ends of tiles, and two compute 64 rows each: while one of them works out its weights
the other keeps the tensor cores busy. Blocks that no row of the tile sees are never fetched, and only blocks at the
diagonal or at a window's edge are masked. A tile's results go to a place of their own, so a ragged end overwrites nobody.
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
from pallas_kernels.ragged_paged_attention.mosaic_gpu.common import NEG, ROWS, WGMMA, full
from pallas_kernels.ragged_paged_attention.mosaic_gpu.layout import BLOCK
from pallas_kernels.ragged_paged_attention.mosaic_gpu.metadata import ALIGNED, HopperMetadata

COMPUTE, FETCH = 2, 2  # two warpgroups compute, and the third fetches
ROWS_EACH = 64  # query rows of a warpgroup: wgmma's M


def stages(width: int) -> int:
    """Blocks in flight, in what a processor's 227 KB leave beside queries and weights."""
    return min(6, (208 * 1024 - COMPUTE * ROWS_EACH * (width + BLOCK) * 2) // (BLOCK * 2 * width * 2))


def attend(
    q: Float[Array, "K M C"], kv: Float[Array, "rows C2"], meta: HopperMetadata, *, sm_scale, soft_cap, options: dict
) -> Float[Array, "K QM C"]:
    """Results of the query rows `q` (see `HopperMetadata.queries`) at the places of their tiles (`HopperMetadata.place`).

    They have q's type; places that belong to no token hold anything.
    """
    heads, width, size = q.shape[0], q.shape[2], columns.tile_rows(meta.heads.dim)
    each = width // COMPUTE if columns.split_columns(meta.heads.dim) else width
    per_page, depth = common.copies(meta.page_size), stages(width)
    run = plgpu.kernel(
        functools.partial(_program, meta=meta, sm_scale=sm_scale, soft_cap=soft_cap),
        out_type=jax.ShapeDtypeStruct((heads * meta.tiles.shape[0] * size, width), q.dtype),
        grid=(meta.tuning.tile_programs,),
        grid_names=("program",),
        num_threads=COMPUTE + 1,
        thread_name="warpgroup",
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


def _program(num_tiles, tiles, table, q, kv, out, q_smem, kv_smem, p_smem, q_full, ready, free, tail, *, meta,
             sm_scale, soft_cap):  # fmt: skip
    """One program: every so-manieth (tile, K/V head), the longest first."""
    program, me = lax.axis_index("program"), lax.axis_index("warpgroup")
    heads, depth, grid = meta.heads.num_kv, kv_smem.shape[0], meta.tuning.tile_programs
    queries, places = q.shape[0] // heads, out.shape[0] // heads
    size, each = columns.tile_rows(meta.heads.dim), q_smem.shape[3]
    split = columns.split_columns(meta.heads.dim)
    mine_rows, mine_columns = (0, me * each) if split else (me * ROWS_EACH, 0)
    mine = lax.div(num_tiles[0] * heads - program + (grid - 1), jnp.int32(grid))

    def work(i):
        number = program + i * grid
        tile, head = lax.div(number, jnp.int32(heads)), lax.rem(number, jnp.int32(heads))
        return (lambda column: tiles[tile, column]), head

    @pl.when(me < COMPUTE)
    def _():
        plgpu.set_max_registers(232, action="increase")
        compute = functools.partial(
            _tile, me=me, rows=mine_rows, values=pl.ds(out.shape[1] + mine_columns, each), q_smem=q_smem.at[me],
            kv_smem=kv_smem, p_smem=p_smem.at[me], ready=ready, free=free, tail=tail, meta=meta, sm_scale=sm_scale,
            soft_cap=soft_cap,
        )  # fmt: skip

        def one(i, step):
            at, head = work(i)
            query = pl.multiple_of(head * queries + at(columns.TILE_QUERY) + mine_rows, ALIGNED)
            for part in range(q_smem.shape[1]):
                source = q.at[pl.ds(query, ROWS_EACH), pl.ds(part * each, each)]
                plgpu.copy_gmem_to_smem(source, q_smem.at[me, part], q_full.at[me])
            plgpu.barrier_wait(q_full.at[me])
            step = compute(at, step)
            plgpu.commit_smem()
            place = pl.ds(head * places + at(columns.TILE_PLACE) * size + mine_rows, ROWS_EACH)
            plgpu.copy_smem_to_gmem(q_smem.at[me, 0], out.at[place, pl.ds(mine_columns, each)])
            plgpu.wait_smem_to_gmem(0)
            return step

        lax.fori_loop(0, mine, one, jnp.int32(0))

    @pl.when(me == FETCH)
    def _():
        plgpu.set_max_registers(40, action="decrease")

        def one(i, step):
            at, head = work(i)
            row, stop = at(columns.TILE_ROW), at(columns.TILE_STOP)

            def block(b, step):
                stage = lax.rem(step, jnp.int32(depth))

                @pl.when(step >= depth)
                def _():
                    plgpu.barrier_wait(free.at[stage])

                where = (row, head, b, stop)
                common.fetch(kv, table, where, meta.page_size, heads, kv_smem.at[stage], ready.at[stage])
                return step + 1

            return lax.fori_loop(at(columns.TILE_BLOCK0), at(columns.TILE_BLOCK1), block, step)

        lax.fori_loop(0, mine, one, jnp.int32(0))


def _tile(at, step, *, me, rows, values, q_smem, kv_smem, p_smem, ready, free, tail, meta, sm_scale, soft_cap):
    """Attention of this warpgroup's rows of a tile; the result replaces the queries."""
    group, window, depth = meta.heads.group, meta.sliding_window, kv_smem.shape[0]
    parts, _, each = q_smem.shape
    width, stop = parts * each, at(columns.TILE_STOP)
    row = at(columns.TILE_AT) + rows + plgpu.broadcasted_iota(jnp.int32, (ROWS_EACH,), 0, layout=ROWS)
    position = lax.div(row, jnp.int32(group))  # of each row's token

    def mask(b, scores):
        column = b * BLOCK + plgpu.broadcasted_iota(jnp.int32, scores.shape, 1, layout=WGMMA)
        seat = lax.broadcast_in_dim(position, scores.shape, [0])
        seen = column <= seat
        if window is not None:
            seen &= column > seat - window
        return jnp.where(seen, scores, NEG)

    def block(b, carry):
        step, top, total, acc = carry
        stage = lax.rem(step, jnp.int32(depth))
        plgpu.barrier_wait(ready.at[stage])
        pairs = [(q_smem.at[i], kv_smem.at[stage, :, pl.ds(i * each, each)].transpose((1, 0))) for i in range(parts)]
        scores = common.scaled(common.product(*pairs), sm_scale, soft_cap)
        plain = (b >= plain0) & (b < plain1)
        scores = lax.cond(plain, lambda x: x, functools.partial(mask, b), scores)
        new_top = jnp.maximum(top, scores.max(axis=1))
        weight = jnp.exp2(scores - lax.broadcast_in_dim(new_top, scores.shape, [0]))
        keep = jnp.exp2(top - new_top)
        p_smem[...] = weight.astype(p_smem.dtype)

        @pl.when((b + 1) * BLOCK > stop)
        def _():
            @pl.when(me == 0)
            def _():
                common.zero_tail(kv_smem.at[stage], width, stop - b * BLOCK)
                plgpu.commit_smem()

            plgpu.barrier_arrive(tail)
            plgpu.barrier_wait(tail)

        plgpu.commit_smem()
        part = common.product((p_smem, kv_smem.at[stage, :, values]))
        plgpu.barrier_arrive(free.at[stage])
        acc = acc * lax.broadcast_in_dim(keep, acc.shape, [0]) + part
        return step + 1, new_top, total * keep + weight.sum(axis=1), acc

    plain0, plain1 = at(columns.TILE_PLAIN0), at(columns.TILE_PLAIN1)
    start = step, full((ROWS_EACH,), NEG, ROWS), full((ROWS_EACH,), 0, ROWS), full((ROWS_EACH, each), 0, WGMMA)
    step, _, total, acc = lax.fori_loop(at(columns.TILE_BLOCK0), at(columns.TILE_BLOCK1), block, start)
    done = acc / lax.broadcast_in_dim(total, acc.shape, [0])
    q_smem[0] = done.astype(q_smem.dtype)
    return step
