"""Where K/V heads are shared out over devices: an equal stretch of the pages' heads axis is a device's own pages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.ragged_paged_attention import from_canonical, heads_axis, pages_shape
from pallas_kernels.ragged_paged_attention.implementation import BUILT

PAGES, PAGE, K, C = 3, 32, 4, 128


@pytest.mark.parametrize("name", BUILT)
def test_a_stretch_of_the_axis_holds_whole_heads_in_order(name: str):
    canonical = jax.random.normal(jax.random.key(0), (PAGES, PAGE, 2 * K, C))
    whole = from_canonical(name, canonical)
    assert whole.shape == pages_shape(name, PAGES, PAGE, K, C)
    for share, part in enumerate(jnp.split(whole, 2, axis=heads_axis(name))):
        own = from_canonical(name, canonical[:, :, share * K : (share + 1) * K])
        np.testing.assert_array_equal(part, own)
