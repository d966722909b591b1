"""The step over a mesh is the same step: tokens, log-probabilities and hidden states as on one device."""

import jax
import numpy as np
import pytest
from flax import nnx

from orca_jax.core.errors import ConfigError
from orca_jax.core.plan import Row, Sampling, Seat, StepPlan
from orca_jax.execution.buckets import Bucket
from orca_jax.execution.forward import AttentionOptions
from orca_jax.execution.local import LocalExecutor
from orca_jax.execution.options import ExecutorOptions
from orca_jax.models.config import DecoderConfig
from orca_jax.models.dummy import fill_randomly
from orca_jax.models.load import abstract_model
from orca_jax.models.sharding import tensor_mesh
from orca_jax.testing import oracle

LLAMA = DecoderConfig(
    family="llama", vocab_size=96, hidden_size=32, num_layers=2, num_heads=8, num_kv_heads=4, head_dim=16,
    intermediate_size=48, max_position_embeddings=64, qk_norm=True,
)  # fmt: skip
GPT = DecoderConfig(  # its vocabulary divides by nothing
    family="gpt2", vocab_size=97, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=4, head_dim=8,
    intermediate_size=40, max_position_embeddings=64, norm="layer", activation="gelu_tanh", gated=False, rope=None,
    qkv_bias=True, out_bias=True, mlp_bias=True, tie_embeddings=True,
)  # fmt: skip
CONFIGS = {"llama": LLAMA, "gpt": GPT}
SAMPLINGS = (
    Sampling(prompt_len=5, logprobs=20, prompt_logprobs=3),
    Sampling(prompt_len=9, temperature=0.9, top_k=7, top_p=0.8, seed=11, logprobs=20),
    Sampling(prompt_len=1, temperature=1.3, min_p=0.05, seed=12, logprobs=20),
    Sampling(prompt_len=3, repetition_penalty=1.4, presence_penalty=0.3, logit_bias=((5, 4.0), (90, 4.0)), logprobs=20,
             allowed_token_ids=tuple(range(2, 95, 3))),
)  # fmt: skip


def executor(config: DecoderConfig, layers: str, num_devices: int | None, attention: str = "xla") -> LocalExecutor:
    """On the default device for None, else over so many, one included."""
    mesh = None if num_devices is None else tensor_mesh(jax.devices()[:num_devices])
    model = fill_randomly(abstract_model(config, "float32", layers), "float32", 3, lambda *_: None)
    for i, (path, variable) in enumerate(nnx.to_flat_state(nnx.state(model))):
        spread = 0.5 if path[-1] in ("scale", "bias") else 0.0  # ones and zeros could stand in any order
        value = variable.get_value()
        noise = np.random.default_rng(i).normal(size=value.shape).astype(np.float32)
        variable.set_value(value * (1 if spread else 5) + spread * noise)
    options = ExecutorOptions(
        (Bucket(32, 4),),
        4,
        40,
        64,
        AttentionOptions(
            attention, 4 if attention == "xla" else 8, interpret=attention != "xla", layers=layers, mesh=mesh
        ),
        "float32",
    )
    made = LocalExecutor(model, options)
    made.warm_up()
    return made


def run(e: LocalExecutor) -> tuple[list, list[np.ndarray]]:
    """Four sequences: prompts whole and in chunks beside increments, then increments."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 96, s.prompt_len).tolist() for s in SAMPLINGS]
    seats = [Seat(i, np.arange(10 * i, 10 * i + 8, dtype=np.int32), s) for i, s in enumerate(SAMPLINGS)]
    last = list(prompts)
    done, results, hidden = [0, 0, 0, 0], [], []
    for takes in ((5, 4, 1, 0), (1, 4, 1, 3), (1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1)):
        rows = []
        for i, take in enumerate(takes):
            if take:
                stop = done[i] + take
                following = prompts[i][stop] if stop < len(prompts[i]) else None
                tokens = tuple(last[i][done[i] : stop])
                rows.append(Row(seats[i], done[i], take, tokens, stop >= len(prompts[i]), next_prompt_token=following))
                done[i] = stop
        e.launch(StepPlan(tuple(rows)))
        hidden.append(np.asarray(e.in_flight[-1].output.hidden)[: sum(takes)])
        result = e.collect()
        for row, token in zip(rows, result.tokens, strict=True):
            if row.samples:
                last[row.seat.slot].append(token)
        results.append(result)
    return results, hidden


@pytest.fixture(scope="module")
def alone():
    kept: dict = {}

    def get(name: str, layers: str):
        if (name, layers) not in kept:
            kept[name, layers] = run(executor(CONFIGS[name], layers, None))
        return kept[name, layers]

    return get


@pytest.fixture(scope="module")
def over():
    """Executors over a mesh, each made once; what they hold is as the test before left it."""
    kept: dict = {}

    def get(name: str, layers: str, num_devices: int) -> LocalExecutor:
        if (name, layers, num_devices) not in kept:
            kept[name, layers, num_devices] = executor(CONFIGS[name], layers, num_devices)
        return kept[name, layers, num_devices]

    return get


def close(got, expected) -> bool:
    """Within 1e-4 of the expected values' spread."""
    got, expected = np.asarray(got), np.asarray(expected)
    return bool(np.abs(got - expected).max() <= 1e-4 * max(oracle.spread(expected), 1e-3))


SHARED = [("llama", "unrolled", 4), ("gpt", "scan", 4)]
MORE = [("llama", "scan", 4), ("gpt", "unrolled", 4), ("llama", "unrolled", 2), ("gpt", "unrolled", 2)]


@pytest.mark.parametrize(
    ("name", "layers", "num_devices"), SHARED + [pytest.param(*place, marks=pytest.mark.full) for place in MORE]
)
def test_a_mesh_changes_no_result(alone, over, name: str, layers: str, num_devices: int):
    expected, expected_hidden = alone(name, layers)
    results, hidden = run(over(name, layers, num_devices))
    assert [r.tokens for r in results] == [r.tokens for r in expected]
    assert all(close(a, b) for a, b in zip(hidden, expected_hidden, strict=True))
    for got, want in zip(results, expected, strict=True):
        assert got.logprobs.keys() == want.logprobs.keys()
        assert got.prompt_logprobs.keys() == want.prompt_logprobs.keys()
        for key in want.logprobs:
            assert got.logprobs[key].rank == want.logprobs[key].rank
            assert [t for t, _ in got.logprobs[key].top] == [t for t, _ in want.logprobs[key].top]
            assert close([p for _, p in got.logprobs[key].top], [p for _, p in want.logprobs[key].top])


@pytest.mark.parametrize("layers", ["scan", pytest.param("unrolled", marks=pytest.mark.full)])
def test_an_accelerator_s_kernels_run_on_each_device_s_heads(alone, layers: str):
    """The TPU's, interpreted: what they are told of heads is a device's share."""
    expected, expected_hidden = alone("llama", layers)
    results, hidden = run(executor(LLAMA, layers, 2, "mosaic_tpu"))
    assert [r.tokens for r in results] == [r.tokens for r in expected]
    assert all(close(a, b) for a, b in zip(hidden, expected_hidden, strict=True))


def test_what_cannot_be_shared_out_is_refused():
    with pytest.raises(ConfigError, match=r"num_kv_heads = 4 cannot be shared out evenly over 8 devices .*take 4"):
        executor(GPT, "unrolled", 8)
    with pytest.raises(ConfigError, match=r"num_kv_heads = 4 cannot .* over 3 devices .*take 2"):
        executor(LLAMA, "unrolled", 3)


def test_each_device_has_its_share(over):
    e = over("llama", "unrolled", 4)
    assert {x.sharding.shard_shape(x.shape)[2] for x in e.cache} == {1}
    whole = sum(x.nbytes for x in e.parameters)
    assert sum(x.addressable_shards[0].data.nbytes for x in e.parameters) < 0.3 * whole
    assert e.statistics()["compiles_after_warm_up"] == 0
