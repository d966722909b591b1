"""Head widths and page sizes that drawn cases leave out: widths that are padded inside, pages of hundreds of tokens."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calls import run
from forms import HOPPER, TPU, XLA
from ragged_mixtures import Case, arrays

from pallas_kernels.ragged_paged_attention import reference

BF16 = {"dtype": jnp.bfloat16, "atol": 0.02}
WIDTHS = [
    pytest.param(dataclasses.replace(XLA, **BF16), 96, 256, id="xla-96-256"),
    pytest.param(dataclasses.replace(TPU, **BF16, tuning=None), 80, 16, id="tpu-80-16", marks=pytest.mark.full),
    pytest.param(dataclasses.replace(TPU, **BF16, tuning=None), 96, 256, id="tpu-96-256"),
    pytest.param(dataclasses.replace(TPU, **BF16, tuning=None), 256, 64, id="tpu-256-64"),
    pytest.param(
        HOPPER, 96, 256, id="gpu-96-256",
        marks=pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="JAX 0.10's GPU interpreter takes a minute"),
    ),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul:RuntimeWarning")
@pytest.mark.parametrize(("form", "head_dim", "page_size"), WIDTHS)
def test_equals_the_definition(form, head_dim, page_size):
    rows = ((1, page_size + 2), (1, page_size - 1), (9, page_size - 4), (13, 0))
    case = Case(rows, page_size, pages_per_row=2, bucket_rows=5, group=5, head_dim=head_dim, sliding_window=page_size,
                soft_cap=4.0)  # fmt: skip
    a = form.rounded(arrays(case))
    expected = reference.ragged_paged_attention(a.q, a.pages, *a.table, **case.options())
    np.testing.assert_allclose(run(case, a, form), expected, atol=form.atol)
