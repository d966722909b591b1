"""The forms in which attention runs here: implementations, layouts and modes. Expectations are tested with each of them."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from ragged_mixtures import KINDS, Arrays, Case

from pallas_kernels.ragged_paged_attention import from_canonical, to_canonical
from pallas_kernels.ragged_paged_attention import metadata as xla
from pallas_kernels.ragged_paged_attention.mosaic_tpu import tuning as tpu


@dataclasses.dataclass(frozen=True, eq=False)  # a key of compiled programs
class Form:
    """`layout` is "own" or "canonical"; `dtype` that of the pages, and `atol` how near its roundings come; `kinds` are the
    shapes that drawn cases have.
    """

    implementation: str
    layout: str = "own"
    uniform: bool = False
    tuning: Any = None
    dtype: Any = jnp.float32
    atol: float = 2e-5
    kinds: tuple[dict, ...] = KINDS

    @property
    def interpret(self) -> bool:
        return self.implementation != "xla"

    def pages(self, canonical: np.ndarray) -> jnp.ndarray:
        """Pages as this form keeps them."""
        pages = jnp.asarray(canonical, self.dtype)
        return pages if self.layout == "canonical" else from_canonical(self.implementation, pages)

    def canonical(self, pages, case: Case) -> np.ndarray:
        """Such pages in the canonical layout, without padded channels."""
        return np.asarray(to_canonical(self.implementation, pages), np.float32)[..., : case.head_dim]

    def rounded(self, a: Arrays) -> Arrays:
        """The arrays, with everything that goes into the pages as they can hold it."""
        names = ("k", "v", "pages", "pages_before")
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

XLA = Form("xla", tuning=SMALL)
TPU = Form("mosaic_tpu", tuning=SMALL_TPU)
FORMS = {
    "xla-own": XLA,
    "xla-own-default-blocks": dataclasses.replace(XLA, tuning=xla.Tuning()),
    "xla-own-uniform": dataclasses.replace(XLA, uniform=True),
    "xla-canonical": dataclasses.replace(XLA, layout="canonical"),
    "tpu-own": TPU,
    "tpu-own-uniform": dataclasses.replace(TPU, uniform=True),
    "tpu-own-bfloat16": dataclasses.replace(TPU, dtype=jnp.bfloat16, atol=0.02, kinds=TPU_KINDS),
    "tpu-own-float16-default-blocks": dataclasses.replace(TPU, dtype=jnp.float16, tuning=None, kinds=TPU_KINDS[1:]),
    "tpu-canonical": dataclasses.replace(TPU, layout="canonical", kinds=TPU_KINDS[:1]),
}


def all_forms(**but) -> pytest.MarkDecorator:
    """Run a test with `form` of every kind, or with those that have the attributes given."""
    chosen = {name: form for name, form in FORMS.items() if all(getattr(form, k) == v for k, v in but.items())}
    return pytest.mark.parametrize("form", chosen.values(), ids=chosen.keys())
