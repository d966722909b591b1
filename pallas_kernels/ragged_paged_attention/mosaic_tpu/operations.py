"""Attention and the K/V write on TPUs, in the form that the seam (`implementation.py`) wants.

The kernels are imported by the first call of them: they load Pallas, for which a process on other hardware need not wait.
"""

from typing import Any

from jaxtyping import Array, Float

from pallas_kernels.ragged_paged_attention.layout import Pages
from pallas_kernels.ragged_paged_attention.mosaic_tpu.worklist import WorkList


def attend(
    q: Float[Array, "T H C"],
    kv_pages: Pages,
    work: WorkList,
    *,
    sm_scale: float,
    soft_cap: float | None,
    interpret: Any = False,
) -> Float[Array, "T H C"]:
    """Attention of every real token over its row's pages, zeros for the others; see `attention.attend`."""
    from pallas_kernels.ragged_paged_attention.mosaic_tpu import attention

    return attention.attend(q, kv_pages, work, sm_scale=sm_scale, soft_cap=soft_cap, interpret=interpret)


def write(
    kv_pages: Pages, k: Float[Array, "T K C"], v: Float[Array, "T K C"], work: WorkList, *, interpret: Any = False
) -> Pages:
    """Pages with each real token's K and V in place; see `write.write`."""
    from pallas_kernels.ragged_paged_attention.mosaic_tpu import write

    return write.write(kv_pages, k, v, work, interpret=interpret)
