"""Both forms of the layers give the same answers, with the cache in one array or in one for each layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import Array

from orca_jax.core.errors import ConfigError
from orca_jax.models.config import DecoderConfig
from orca_jax.models.decoder import Decoder
from orca_jax.models.layers import Attend
from orca_jax.models.scan import layer_form, scan_layers, stack_layers

CONFIGS = {
    "llama": DecoderConfig("llama", 64, 32, 3, 4, 2, 8, 48, 64, qk_norm=True, qkv_bias=True),
    "gpt2": DecoderConfig("gpt2", 64, 32, 3, 4, 4, 8, 48, 64, norm="layer", activation="gelu_tanh", gated=False,
                          rope=None, mlp_bias=True, out_bias=True, tie_embeddings=True),
}  # fmt: skip
LENGTH = 16


def attend_to(positions: Array) -> Attend:
    """One sequence's attention over a cache `[LENGTH, 2K, C]` of its own."""

    def attend(q: Array, k: Array, v: Array, kv: Array) -> tuple[Array, Array]:
        kv = kv.at[positions].set(jnp.concatenate([k, v], axis=1))
        keys, values = (jnp.repeat(part, q.shape[1] // k.shape[1], axis=1) for part in jnp.split(kv, 2, axis=1))
        scores = jnp.einsum("thc,shc->hts", q, keys)
        seen = jnp.arange(LENGTH)[None, :] <= positions[:, None]
        weights = jax.nn.softmax(jnp.where(seen[None], scores, -1e30), axis=-1)
        return jnp.einsum("hts,shc->thc", weights, values), kv

    return attend


@jax.jit
def run_unrolled(model: Decoder, tokens: Array, positions: Array, kvs: list[Array]) -> tuple[Array, list[Array]]:
    return model(tokens, positions, kvs, [attend_to(positions)] * len(kvs))


@jax.jit
def run_scan(model: Decoder, tokens: Array, positions: Array, kv: Array) -> tuple[Array, Array]:
    attend = attend_to(positions)

    def attend_at(q: Array, k: Array, v: Array, kv: Array, layer: Array) -> tuple[Array, Array]:
        mine = jax.lax.dynamic_slice_in_dim(kv, layer * LENGTH, LENGTH)
        y, mine = attend(q, k, v, mine)
        return y, jax.lax.dynamic_update_slice_in_dim(kv, mine, layer * LENGTH, 0)

    return scan_layers(model, tokens, positions, kv, attend_at)


@pytest.mark.parametrize("family", CONFIGS)
def test_both_forms_give_the_same_states_and_the_same_cache(family: str):
    config = CONFIGS[family]
    model = Decoder(config, rngs=nnx.Rngs(0))
    stacked = stack_layers(model)
    kvs = [jnp.zeros((LENGTH, 2 * config.num_kv_heads, config.head_dim))] * config.num_layers
    kv = jnp.concatenate(kvs)
    for start, stop in ((0, 4), (4, 8), (8, 12)):  # chunks: the cache is carried over
        tokens, positions = jnp.arange(start, stop) * 5 % 64, jnp.arange(start, stop)
        hidden, kvs = run_unrolled(model, tokens, positions, kvs)
        scanned, kv = run_scan(stacked, tokens, positions, kv)
        np.testing.assert_allclose(scanned, hidden, rtol=0, atol=1e-5)
        np.testing.assert_allclose(stacked.logits(scanned), model.logits(hidden), rtol=0, atol=1e-5)
    np.testing.assert_allclose(kv, jnp.concatenate(kvs), rtol=0, atol=1e-5)
    assert float(jnp.abs(hidden).max()) > 0.1


def test_stacking_leaves_the_model_as_it_was():
    model = Decoder(CONFIGS["llama"], rngs=nnx.Rngs(0))
    stacked = stack_layers(model)
    assert len(model.layers) == 3
    assert model.layers[0].mlp.up.weight.get_metadata()["axes"] == ("parts", "mlp", "embed")
    assert stacked.layers.mlp.up.weight.get_metadata()["axes"] == ("layer", "parts", "mlp", "embed")
    assert stacked.layers.mlp.up.weight.shape == (3, 2, 48, 32)


def test_layers_with_different_windows_cannot_be_stacked():
    config = DecoderConfig("qwen2", 64, 32, 2, 4, 2, 8, 48, 64, sliding_window=(None, 8))
    with pytest.raises(ConfigError, match="needs the same attention window in all layers"):
        stack_layers(Decoder(config, rngs=nnx.Rngs(0)))
    assert layer_form("tpu", "TPU v6 lite", config) == "unrolled"


def test_the_form_belongs_to_the_device():
    kinds = (("cpu", "cpu"), ("gpu", "NVIDIA H200"), ("tpu", "TPU v6 lite"), ("tpu", "TPU7x"))
    forms = [layer_form(platform, kind, CONFIGS["llama"]) for platform, kind in kinds]
    assert forms == ["unrolled", "unrolled", "scan", "unrolled"]
