"""The forms in which attention runs here: implementations, layouts and modes. Expectations are tested with each of them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ragged_mixtures import KINDS, Arrays, Case

from pallas_kernels.ragged_paged_attention import from_canonical, to_canonical
from pallas_kernels.ragged_paged_attention import metadata as xla
from pallas_kernels.ragged_paged_attention.mosaic_gpu import metadata as hopper
from pallas_kernels.ragged_paged_attention.mosaic_tpu import tuning as tpu


@dataclasses.dataclass(frozen=True, eq=False)  # a key of compiled programs
class Form:
    """`layout` is "own" or "canonical"; `dtype` that of the pages, and `atol` how near its roundings come; `kinds` are the
    shapes that drawn cases have, `examples` how many are drawn of each, and `more_kinds` those that are drawn with --full
    only, when `many` are of each. `fixed` forms run the fixed cases too, with pages of `page_size`.
    """

    implementation: str
    layout: str = "own"
    uniform: bool = False
    increments: bool = False
    tuning: Any = None
    dtype: Any = jnp.float32
    atol: float = 2e-5
    kinds: tuple[dict, ...] = KINDS
    more_kinds: tuple[dict, ...] = ()
    examples: int = 7
    many: int = 25
    fixed: bool = True
    page_size: int = 4

    @property
    def interpret(self) -> bool:
        return self.implementation != "xla"

    def pages(self, canonical: np.ndarray) -> jnp.ndarray:
        """Pages as this form keeps them."""
        pages = jnp.asarray(canonical, self.dtype)
        return pages if self.layout == "canonical" else from_canonical(self.implementation, pages)

    def canonical(self, pages, case: Case) -> np.ndarray:
        """Such pages in the canonical layout."""
        return np.asarray(to_canonical(self.implementation, pages, case.head_dim), np.float32)

    def rounded(self, a: Arrays) -> Arrays:
        """The arrays, as the pages can hold them: queries are computed with in that type, too."""
        names = ("q", "k", "v", "pages", "pages_before")
        held = {name: np.asarray(jnp.asarray(getattr(a, name), self.dtype), np.float32) for name in names}
        return dataclasses.replace(a, **held)


# small blocks and tiles, so that small cases cross their boundaries: 2 singles x 16 tokens, tiles of 4 x 16
SMALL = xla.Tuning(single_rows=2, single_work=32, tile=4, tile_block=16)
# two steps to a fetched block, and more than one tile in the 24 tokens of a drawn case
SMALL_TPU = tpu.Tuning(fetch=32, single_block=16, tile=16, tile_block=16)
TPU_KINDS = (
    dict(page_size=16, head_dim=64),
    dict(page_size=32, head_dim=128, num_kv_heads=3, group=1, sliding_window=17),
    dict(page_size=16, head_dim=160, num_kv_heads=1, group=9, soft_cap=5.0),
)

SLOW = jax.__version_info__ < (0, 11)  # its GPU interpreter compiles anew in each call: 10 s of it
# small cases are shared among programs, parts are added up, and a program has more than one tile
SMALL_HOPPER = hopper.Tuning(single_programs=3, least=1, tile_programs=2)
HOPPER_KINDS = (
    dict(page_size=16, head_dim=64, num_tokens=152, bucket_rows=5, pages_per_row=17),
    dict(page_size=128, head_dim=128, group=1, sliding_window=70, num_tokens=200, bucket_rows=4, pages_per_row=2),
    dict(page_size=64, head_dim=256, num_kv_heads=1, group=9, sliding_window=9, soft_cap=2.0, num_tokens=40,
         bucket_rows=3, pages_per_row=3),
)  # fmt: skip
ODD_HOPPER_KIND = dict(page_size=48, head_dim=80, num_kv_heads=1, group=3, soft_cap=5.0, num_tokens=96, bucket_rows=4,
                       pages_per_row=5)  # fmt: skip
MANY_HEADS_HOPPER_KIND = dict(page_size=16, head_dim=64, num_kv_heads=1, group=70, num_tokens=4, bucket_rows=2)
FEW_TOKENS_HOPPER_KIND = dict(page_size=16, head_dim=64, num_tokens=20, bucket_rows=3, pages_per_row=17)

XLA = Form("xla", tuning=SMALL)
TPU = Form("mosaic_tpu", tuning=SMALL_TPU, kinds=KINDS[::3], more_kinds=KINDS[1:3])
HOPPER = Form(
    "mosaic_gpu", tuning=SMALL_HOPPER, dtype=jnp.bfloat16, atol=0.02, kinds=HOPPER_KINDS, examples=2 if SLOW else 4,
    many=3 if SLOW else 12, page_size=8, fixed=not SLOW,
)  # fmt: skip
HOPPER_16 = dataclasses.replace(HOPPER, dtype=jnp.float16, atol=0.004)
FORMS = {
    "xla-own": XLA,
    "xla-own-default-blocks": dataclasses.replace(XLA, tuning=xla.Tuning(), kinds=KINDS[:2], more_kinds=KINDS[2:]),
    "xla-own-uniform": dataclasses.replace(XLA, uniform=True, kinds=KINDS[::3], more_kinds=KINDS[1:3]),
    "xla-canonical": dataclasses.replace(XLA, layout="canonical", kinds=KINDS[:2], more_kinds=KINDS[2:]),
    "tpu-own": TPU,
    "tpu-own-uniform": dataclasses.replace(TPU, uniform=True),
    "tpu-own-bfloat16": dataclasses.replace(
        TPU, dtype=jnp.bfloat16, atol=0.02, kinds=TPU_KINDS, more_kinds=(), fixed=False
    ),
    "tpu-own-float16-default-blocks": dataclasses.replace(
        TPU, dtype=jnp.float16, tuning=None, kinds=TPU_KINDS[2:], more_kinds=TPU_KINDS[:2], fixed=False
    ),
    "tpu-canonical": dataclasses.replace(TPU, layout="canonical", kinds=TPU_KINDS[:1], more_kinds=(), fixed=False),
    "gpu-own": HOPPER,
    "gpu-own-uniform": dataclasses.replace(HOPPER, uniform=True, kinds=(FEW_TOKENS_HOPPER_KIND,), fixed=False),
    "gpu-own-float16": dataclasses.replace(HOPPER_16, kinds=(ODD_HOPPER_KIND,), fixed=False),
    "gpu-canonical": dataclasses.replace(HOPPER_16, layout="canonical", kinds=(MANY_HEADS_HOPPER_KIND,), fixed=False),
}


def all_forms(**but) -> pytest.MarkDecorator:
    """Run a test with `form` of every kind, or with those that have the attributes given."""
    chosen = {name: form for name, form in FORMS.items() if all(getattr(form, k) == v for k, v in but.items())}
    return pytest.mark.parametrize("form", chosen.values(), ids=chosen.keys())
