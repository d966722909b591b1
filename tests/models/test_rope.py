"""Rotary angles: their limits, and that a token's angle is its own."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_jax.models.config import RopeConfig
from orca_jax.models.layers import rotate
from orca_jax.models.rope import attention_factor, inverse_frequencies, rotation

KINDS = {
    "default": RopeConfig(),
    "linear": RopeConfig(kind="linear", factor=4.0, original_max_position_embeddings=16),
    "dynamic": RopeConfig(kind="dynamic", factor=4.0, original_max_position_embeddings=16),
    "yarn": RopeConfig(kind="yarn", factor=4.0, original_max_position_embeddings=16),
    "llama3": RopeConfig(kind="llama3", factor=4.0, original_max_position_embeddings=16),
}


@pytest.mark.parametrize("kind", KINDS)
@given(positions=st.lists(st.integers(0, 200), min_size=8, max_size=8))
def test_a_tokens_angle_depends_on_its_own_position_only(kind: str, positions: list[int]):
    together = rotation(KINDS[kind], 8, jnp.asarray(positions))
    everything = rotation(KINDS[kind], 8, jnp.arange(201))
    for part, whole in zip(together, everything, strict=True):
        np.testing.assert_allclose(part, np.asarray(whole)[positions], rtol=0, atol=1e-6)


def test_scalings_keep_fast_pairs_and_stretch_slow_ones():
    plain = inverse_frequencies(RopeConfig(), 64)
    for kind in ("yarn", "llama3"):
        scaled = inverse_frequencies(RopeConfig(kind=kind, factor=8.0, original_max_position_embeddings=1024), 64)
        assert scaled[0] == pytest.approx(plain[0]) and scaled[-1] == pytest.approx(plain[-1] / 8)
        assert (np.diff(scaled / plain) <= 1e-12).all()
    linear = inverse_frequencies(RopeConfig(kind="linear", factor=8.0), 64)
    np.testing.assert_allclose(linear, plain / 8)


def test_dynamic_scaling_begins_where_the_original_context_ends():
    rope = KINDS["dynamic"]
    plain, scaled = rotation(RopeConfig(), 8, jnp.arange(40)), rotation(rope, 8, jnp.arange(40))
    np.testing.assert_allclose(scaled[0][:16], plain[0][:16], rtol=0, atol=1e-6)
    assert np.abs(np.asarray(scaled[0][16:] - plain[0][16:])).max() > 0.1
    # the base is theta * (factor * n / original - (factor - 1))**(C / (C - 2)) for the n-th token
    base = 10000.0 * (4.0 * 33 / 16 - 3.0) ** (8 / 6)
    np.testing.assert_allclose(scaled[0][32], np.cos(32 * base ** -(np.arange(0, 8, 2) / 8)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({}, 0.1 * np.log(4.0) + 1.0),
        ({"attention_factor": 1.5}, 1.5),
        ({"mscale": 2.0, "mscale_all_dim": 1.0}, (0.2 * np.log(4.0) + 1.0) / (0.1 * np.log(4.0) + 1.0)),
        ({"mscale": 2.0}, 0.1 * np.log(4.0) + 1.0),
    ],
)
def test_yarn_turns_up_the_temperature(changes: dict[str, float], factor: float):
    rope = RopeConfig(kind="yarn", factor=4.0, original_max_position_embeddings=16, **changes)  # type: ignore[arg-type]
    assert attention_factor(rope) == pytest.approx(factor)
    cos, sin = rotation(rope, 8, jnp.arange(5))
    np.testing.assert_allclose(cos**2 + sin**2, factor**2, rtol=1e-5)


def test_a_rotation_keeps_lengths_and_depends_on_distance_only():
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(np.repeat(rng.normal(size=(1, 1, 8)), 12, axis=0), jnp.float32) for _ in range(2))
    turn = rotation(RopeConfig(), 8, jnp.arange(12))
    q, k = np.asarray(rotate(q, turn))[:, 0], np.asarray(rotate(k, turn))[:, 0]
    np.testing.assert_allclose(np.linalg.norm(q, axis=-1), np.linalg.norm(q[0]), rtol=1e-5)
    np.testing.assert_allclose((q[5:] * k[:-5]).sum(-1), (q[5] * k[0]).sum(), rtol=0, atol=1e-4)
