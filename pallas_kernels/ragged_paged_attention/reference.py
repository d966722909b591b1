"""The definition: ragged paged attention and the K/V write in float64 NumPy, one query and one head at a time."""

import numpy as np


def rows_of(kv_lens, cu_q_lens, num_rows):
    """(row, first token, query length, K/V length) of each real row."""
    for row in range(int(np.asarray(num_rows).reshape(-1)[0])):
        yield row, int(cu_q_lens[row]), int(cu_q_lens[row + 1] - cu_q_lens[row]), int(kv_lens[row])


def ragged_paged_attention(
    q, kv_pages, kv_lens, page_table, cu_q_lens, num_rows, *, sm_scale, sliding_window=None, soft_cap=None
):
    """float64 [T, H, C] over canonical pages `[pages, page_size, 2K, C]`; padding tokens are zeros."""
    q, kv_pages = np.asarray(q, np.float64), np.asarray(kv_pages, np.float64)
    page_size, kv_heads = kv_pages.shape[1], kv_pages.shape[2] // 2
    group = q.shape[1] // kv_heads
    out = np.zeros(q.shape)
    for row, start, q_len, kv_len in rows_of(kv_lens, cu_q_lens, num_rows):
        history = [kv_pages[page_table[row][p // page_size], p % page_size] for p in range(kv_len)]
        for i in range(q_len):
            position = kv_len - q_len + i
            low = 0 if sliding_window is None else max(0, position - sliding_window + 1)
            seen = np.stack(history[low : position + 1])
            for head in range(q.shape[1]):
                k, v = seen[:, 2 * (head // group)], seen[:, 2 * (head // group) + 1]
                scores = k @ q[start + i, head] * sm_scale
                if soft_cap is not None:
                    scores = soft_cap * np.tanh(scores / soft_cap)
                weights = np.exp(scores - scores.max())
                out[start + i, head] = weights @ v / weights.sum()
    return out


def write_kv(kv_pages, k, v, kv_lens, page_table, cu_q_lens, num_rows):
    """A copy of canonical pages with this iteration's K and V `[T, K, C]` in their places."""
    kv_pages = np.array(kv_pages)
    page_size = kv_pages.shape[1]
    for row, start, q_len, kv_len in rows_of(kv_lens, cu_q_lens, num_rows):
        for i in range(q_len):
            position = kv_len - q_len + i
            place = kv_pages[page_table[row][position // page_size], position % page_size]
            place[0::2], place[1::2] = k[start + i], v[start + i]
    return kv_pages
