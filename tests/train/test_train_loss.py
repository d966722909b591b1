import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orca_jax.train.evaluate import bits_per_byte, held_out_windows
from orca_jax.train.model import initial_parameters, token_losses
from orca_jax.train.optimizer import MATRICES, matrices

LENGTH = 64


@pytest.fixture(scope="module")
def decoder(small_config):
    return small_config.model.decoder()


@pytest.fixture(scope="module")
def parameters(decoder):
    # larger than at the start of a run, so that attention has something to say
    return {name: 4 * weight for name, weight in initial_parameters(decoder, 0).items()}


def compiled(decoder, parameters, dtype):
    function = jax.jit(lambda *window: token_losses(decoder, parameters, *window, dtype=dtype))
    return lambda *window: np.asarray(function(*(jnp.asarray(part, jnp.int32) for part in window)))


@pytest.fixture(scope="module")
def losses(decoder, parameters):
    return compiled(decoder, parameters, jnp.float32)


def tokens(seed):
    return np.random.default_rng(seed).integers(0, 512, (1, LENGTH + 1))


def test_a_document_s_loss_does_not_depend_on_its_neighbours(losses):
    mine, first, second = (tokens(seed) for seed in range(3))
    segments = np.where(np.arange(LENGTH) < 20, 1, np.where(np.arange(LENGTH) < 45, 2, 3))[None]
    inside = (segments == 2)[0]

    def in_company(other):
        inputs = np.where(segments == 2, mine[:, :-1], other[:, :-1])
        targets = np.where(segments == 2, mine[:, 1:], other[:, 1:])
        return losses(inputs, targets, segments)[0]

    a, b = in_company(first), in_company(second)
    np.testing.assert_array_equal(a[inside], b[inside])
    assert np.abs(a[~inside] - b[~inside]).min() > 1e-4
    # without the wall between documents the neighbours are seen
    joined = losses(np.where(segments == 2, mine[:, :-1], first[:, :-1]), mine[:, 1:], np.ones_like(segments))[0]
    assert np.abs(joined - a)[inside].max() > 1e-3


def test_a_document_loses_the_same_wherever_its_window_begins(losses):
    """Rotary positions are relative: only rounding may differ."""
    mine = tokens(0)
    early = np.where(np.arange(LENGTH) < 20, 1, 2)[None]
    late = np.where(np.arange(LENGTH) < LENGTH - 20, 2, 1)[None]
    shifted = np.roll(mine[:, :-1], LENGTH - 20), np.roll(mine[:, 1:], LENGTH - 20)
    a = losses(mine[:, :-1], mine[:, 1:], early)[0, :20]
    b = losses(*shifted, late)[0, -20:]
    np.testing.assert_allclose(a, b, rtol=1e-4)


def test_the_future_is_hidden(losses):
    a, b = tokens(0), tokens(0)
    b[0, 40] = (b[0, 40] + 1) % 512
    one = np.ones((1, LENGTH))
    x, y = losses(a[:, :-1], a[:, 1:], one)[0], losses(b[:, :-1], b[:, 1:], one)[0]
    np.testing.assert_array_equal(x[:39], y[:39])
    assert (x[39:] != y[39:]).any()


def test_bfloat16_products_stay_near_float32(decoder, parameters, losses):
    row = tokens(0)
    window = (row[:, :-1], row[:, 1:], np.ones((1, LENGTH)))
    exact, rough = losses(*window), compiled(decoder, parameters, jnp.bfloat16)(*window)
    assert rough.dtype == np.float32
    np.testing.assert_allclose(exact, rough, rtol=0.05)
    assert not np.array_equal(exact, rough)


def test_every_matrix_inside_the_layers_and_nothing_else_is_muon_s(parameters):
    chosen = {name for name, numbers in matrices(parameters).items() if numbers}
    assert chosen == {name for name in parameters if name.startswith("layers.") and name.endswith(".weight")}
    assert len(chosen) == len(MATRICES)


@pytest.mark.parametrize("size", [1, 5, 31, 63, 64, 65, 200])
def test_every_held_out_token_is_counted_once_with_half_a_window_before_it(size):
    doc = np.arange(1, size + 1)
    inputs, targets, segments, counted = held_out_windows([doc, doc[:3]], end=0, length=LENGTH)
    assert inputs.shape == targets.shape == segments.shape == counted.shape
    seen = sorted(targets[counted].tolist())
    assert seen == sorted([*doc.tolist(), 0, *doc[:3].tolist(), 0])
    for row, mask in zip(inputs, counted, strict=True):
        assert row[0] == 0 or mask.argmax() == LENGTH // 2  # a document's start, or half a window of context


def test_bits_per_byte_of_a_fair_coin():
    windows = held_out_windows([np.zeros(99), np.zeros(50)], end=0, length=LENGTH)
    assert bits_per_byte(lambda inputs, *_: np.full(inputs.shape, np.log(2)), windows, 151, batch=3) == pytest.approx(
        1.0
    )
