"""What a backend has to bring, and which of those that are built runs on which hardware."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

from pallas_kernels.ragged_paged_attention import layout, metadata, xla
from pallas_kernels.ragged_paged_attention.layout import ANY_USE, Pages, Use
from pallas_kernels.ragged_paged_attention.mosaic_gpu import layout as hopper_layout
from pallas_kernels.ragged_paged_attention.mosaic_gpu import metadata as hopper_metadata
from pallas_kernels.ragged_paged_attention.mosaic_gpu import operations as hopper
from pallas_kernels.ragged_paged_attention.mosaic_tpu import generation as tpu_generation
from pallas_kernels.ragged_paged_attention.mosaic_tpu import operations as tpu
from pallas_kernels.ragged_paged_attention.mosaic_tpu import pages as tpu_pages
from pallas_kernels.ragged_paged_attention.mosaic_tpu import worklist as tpu_worklist
from pallas_kernels.ragged_paged_attention.target import Target, current_target


class Metadata(Protocol):
    """What an implementation works out of a row table, once for all layers: a pytree that only it can read."""

    page_size: int
    sliding_window: int | None
    uniform: bool

    @property
    def num_tokens(self) -> int:
        """T of the calls it was prepared for."""
        ...

    def offset_pages(self, pages: Any) -> Any:
        """The same rows with every page number moved by `pages` (a layer's place in an array of all layers)."""
        ...


@dataclasses.dataclass(frozen=True)
class Implementation:
    """One way of doing the operations. The public operations (`api.py`) have checked their arguments already.

    `platform` is that of the targets it is written for, None for all. `why_not` says why it cannot run on a target, None
    where it can. Pages have a layout of its own, which `pages_shape` (of pages, page size, K and C), `pages_dtype`,
    `from_canonical` and `to_canonical` (of pages and C, which may be padded in them) describe; every operation takes
    canonical ones as well. `geometry` reads page size and K off an array of pages. `heads_axis` is the axis of its pages that
    counts K/V heads: equal stretches of it hold whole heads, in order, and can live on a device each.

    prepare: `(kv_lens, page_table, cu_q_lens, num_rows, *, num_tokens, page_size, heads, sliding_window, uniform, increments,
    dtype, tuning)`, as the public one has them. attend: `(q, kv_pages, metadata, *, sm_scale, soft_cap, interpret) ->
    [T, H, C]`. write: `(kv_pages, k, v, metadata, *, interpret) -> kv_pages`.
    """

    name: str
    platform: str | None
    why_not: Callable[[Target], str | None]
    limits: Callable[[Use], str | None]
    pages_shape: Callable[[int, int, int, int], tuple[int, ...]]
    heads_axis: int
    pages_dtype: Callable[[Any], Any]
    from_canonical: Callable[[Pages], Pages]
    to_canonical: Callable[[Pages, int], Pages]
    geometry: Callable[[Any], tuple[int, int]]
    prepare: Callable[..., Metadata]
    attend: Callable[..., Any]
    write: Callable[..., Any]


XLA = Implementation(
    name="xla",
    platform=None,
    why_not=lambda target: None,
    limits=lambda use: None,
    pages_shape=layout.xla_shape,
    heads_axis=2,  # in both layouts
    pages_dtype=layout.head_major_dtype,
    from_canonical=layout.to_xla,
    to_canonical=layout.to_canonical,
    geometry=layout.geometry,
    prepare=metadata.build,
    attend=xla.attend,
    write=xla.write,
)

MOSAIC_TPU = Implementation(
    name="mosaic_tpu",
    platform="tpu",
    why_not=tpu_generation.why_not,
    limits=lambda use: None,
    pages_shape=tpu_pages.paired_shape,
    heads_axis=2,
    pages_dtype=tpu_pages.paired_dtype,
    from_canonical=tpu_pages.to_paired,
    to_canonical=tpu_pages.to_canonical,
    geometry=tpu_pages.geometry,
    prepare=tpu_worklist.build,
    attend=tpu.attend,
    write=tpu.write,
)

MOSAIC_GPU = Implementation(
    name="mosaic_gpu",
    platform="gpu",
    why_not=hopper.why_not,
    limits=hopper.limits,
    pages_shape=hopper_layout.shape,
    heads_axis=1,
    pages_dtype=hopper_layout.kept_dtype,
    from_canonical=hopper_layout.from_canonical,
    to_canonical=hopper_layout.to_canonical,
    geometry=hopper_layout.geometry,
    prepare=hopper_metadata.build,
    attend=hopper.attend,
    write=hopper.write,
)

BUILT = {each.name: each for each in (XLA, MOSAIC_TPU, MOSAIC_GPU)}
NAMES = tuple(BUILT)


def find(name: str | None, use: Use = ANY_USE, *, interpret: bool = False) -> Implementation:
    """The implementation called `name`, or the best one for the target and the use. `interpret` asks no hardware.

    Raises ValueError for an unknown name or a use that it does not serve, NotImplementedError for one that cannot run on the
    target; both with the reason.
    """
    target = current_target()
    if name is None:
        return next(each for each in reversed(BUILT.values()) if reason_against(each, target, use) is None)
    if name not in BUILT:
        raise ValueError(f"attention implementation {name!r} is not one of {', '.join(NAMES)}")
    why_not, limit = None if interpret else BUILT[name].why_not(target), BUILT[name].limits(use)
    if why_not is not None:
        raise NotImplementedError(
            f"attention implementation {name!r} cannot run on {target}: {why_not} (use 'xla' or None)"
        )
    if limit is not None:
        raise ValueError(f"attention implementation {name!r} cannot serve this: {limit} (use 'xla' or None)")
    return BUILT[name]


def reason_against(each: Implementation, target: Target, use: Use) -> str | None:
    """Why an implementation cannot serve `use` on a target, None where it can."""
    return each.why_not(target) or each.limits(use)


def passed_over(name: str, use: Use = ANY_USE) -> str | None:
    """Why the target does not run the kernels that are written for its platform, in one line; None where `name` is such a
    kernel, or nothing keeps one from running, or there is none.
    """
    target = current_target()
    own = [each for each in BUILT.values() if each.platform == target.platform]
    found = [(each, reason_against(each, target, use)) for each in own]
    reasons = [f"no {each.name} on {target.kind}: {why}" for each, why in found if why is not None]
    return None if any(each.name == name for each in own) or not reasons else "; ".join(reasons)
