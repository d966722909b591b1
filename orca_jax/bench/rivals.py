"""Other libraries' attention on the same shapes, where they are installed and apply: numbers to stand beside, no judges.

cuDNN comes with JAX and knows no pages, so it sees whole prompts of one length. FlashInfer has pages and needs torch.
"""

import importlib.util
import statistics
from typing import Any

import jax
import numpy as np

from orca_jax.bench.ceilings import median_seconds, noise
from pallas_kernels.ragged_paged_attention import Heads

WORKSPACE = 2**28  # bytes that FlashInfer asks to be given


def time_cudnn(rows: tuple[tuple[int, int], ...], heads: Heads, dtype: Any, repeats: int) -> float | None:
    """Median seconds of whole prompts, all of one length; None where that is not what the rows are, or without a GPU."""
    alike = len(set(rows)) == 1 and rows[0][0] == rows[0][1]
    if jax.default_backend() != "gpu" or not alike:
        return None
    q, k, v = (
        noise(i, (len(rows), rows[0][0], n, heads.dim), dtype)
        for i, n in enumerate((heads.num_q, heads.num_kv, heads.num_kv))
    )
    call = jax.jit(lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn"))
    return median_seconds([lambda: call(q, k, v)], repeats)


def time_flashinfer(
    rows: tuple[tuple[int, int], ...],
    heads: Heads,
    page_size: int,
    page_table: np.ndarray,
    num_pages: int,
    repeats: int,
) -> float | None:
    """Median seconds, by CUDA events, of FlashInfer in bfloat16 over the same pages; None where it is not installed."""
    if jax.default_backend() != "gpu" or not all(map(importlib.util.find_spec, ("torch", "flashinfer"))):
        return None
    import flashinfer
    import torch

    on_gpu = lambda x, dtype: torch.tensor(np.asarray(x), dtype=dtype, device="cuda")
    q_lens, kv_lens = np.array(rows).T
    used = -(-kv_lens // page_size)
    indices = np.concatenate([page_table[r, :count] for r, count in enumerate(used)])
    paged = [np.concatenate([[0], np.cumsum(used)]), indices, kv_lens - (used - 1) * page_size]
    starts = np.concatenate([[0], np.cumsum(q_lens)])
    workspace = torch.empty(WORKSPACE, dtype=torch.uint8, device="cuda")
    shape = (heads.num_q, heads.num_kv, heads.dim, page_size)
    if (q_lens == 1).all():
        # with groups of heads its tensor cores are the faster way
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD", use_tensor_cores=heads.group > 1)
        wrapper.plan(*(on_gpu(x, torch.int32) for x in paged), *shape, q_data_type=torch.bfloat16)
    else:
        wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD")
        tables = (on_gpu(x, torch.int32) for x in (starts, *paged))
        wrapper.plan(*tables, *shape, causal=True, q_data_type=torch.bfloat16)
    q = torch.randn(int(q_lens.sum()), heads.num_q, heads.dim, dtype=torch.bfloat16, device="cuda")
    pages = torch.randn(num_pages, 2, page_size, heads.num_kv, heads.dim, dtype=torch.bfloat16, device="cuda")
    return _median_of_events(lambda: wrapper.run(q, pages), repeats, torch)


def _median_of_events(run: Any, repeats: int, torch: Any) -> float:
    run()
    times = []
    for _ in range(repeats):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        run()
        ended.record()
        torch.cuda.synchronize()
        times.append(began.elapsed_time(ended) / 1e3)
    return statistics.median(times)
