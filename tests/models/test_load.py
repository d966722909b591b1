"""Loading: types, tied heads, prefixes, harmless extras, streaming, random weights; and damaged weights."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from orca_jax.core.errors import CheckpointError, ConfigError
from orca_jax.models.config import DecoderConfig
from orca_jax.models.fields import Fields
from orca_jax.models.load import abstract_model, load_model
from orca_jax.models.presets import preset_path
from orca_jax.models.registry import MODEL_TYPES

EditConfig = Callable[..., Path]
EditWeights = Callable[[Callable[[dict[str, np.ndarray]], object]], Path]


def parameters(model: nnx.Module) -> dict[str, np.ndarray]:
    return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(nnx.state(model))}


def assert_same(a: nnx.Module, b: nnx.Module) -> None:
    first, second = parameters(a), parameters(b)
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


@pytest.mark.parametrize("name", ["llama", "opt", "gpt2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_any_stored_type_runs_as_any_other(name: str, dtype: str, golden: Callable[[str], Path]):
    loaded = load_model(golden(name), dtype=dtype)
    exact = parameters(load_model(golden(name), dtype="float32").model)
    for path, values in parameters(loaded.model).items():
        assert values.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(values, exact[path].astype(dtype), err_msg=path)


def test_auto_is_what_the_config_asks_for_else_what_is_stored(golden: Callable[[str], Path]):
    folder = golden("opt")
    assert load_model(folder).dtype == np.float16
    path = folder / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"dtype": "bfloat16"}))
    assert load_model(folder).dtype == ml_dtypes.bfloat16
    path.write_text(json.dumps({key: value for key, value in values.items() if key != "dtype"}))
    assert load_model(folder).dtype == np.float16


def test_what_float16_cannot_hold_becomes_infinite(edit_weights: EditWeights):
    folder = edit_weights(lambda t: t["model.norm.weight"].__setitem__(0, 1e30))
    assert np.isinf(parameters(load_model(folder, dtype="float16").model)["norm.scale"][0])


@pytest.mark.parametrize("name", ["gpt2", "opt"])
def test_names_without_the_usual_prefix_and_old_buffers_are_understood(name: str, golden: Callable[[str], Path]):
    folder = golden(name)
    usual = load_model(folder).model
    tensors = load_file(folder / "model.safetensors")
    renamed = {key.removeprefix("transformer.").removeprefix("model."): value for key, value in tensors.items()}
    if name == "gpt2":
        renamed |= {"h.0.attn.bias": np.ones((1, 1, 64, 64), np.bool_), "h.1.attn.masked_bias": np.float32([-1e4])}
    save_file(renamed, folder / "model.safetensors")
    assert_same(load_model(folder).model, usual)


def test_rotary_tables_of_old_checkpoints_are_ignored(edit_weights: EditWeights):
    table = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float64)}
    load_model(edit_weights(lambda t: t.update(table)))


def test_a_head_that_repeats_tied_embeddings_is_ignored_and_another_is_refused(edit_weights: EditWeights):
    folder = edit_weights(lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].copy()}))
    assert load_model(folder).model.head is None
    folder = edit_weights(lambda t: t["lm_head.weight"].__setitem__((0, 0), 9.0))
    with pytest.raises(CheckpointError, match=r"'lm_head.weight' differs from the embedding, but tie_word_embeddings"):
        load_model(folder)


def test_the_fingerprint_changes_with_config_and_headers(edit_config: EditConfig, edit_weights: EditWeights):
    first = load_model(edit_config()).info.fingerprint
    assert load_model(edit_config()).info.fingerprint == first
    second = load_model(edit_config(rms_norm_eps=1e-3)).info.fingerprint
    unused = "model.layers.0.self_attn.rotary_emb.inv_freq"
    third = load_model(edit_weights(lambda t: t.update({unused: np.ones(8, np.float32)}))).info.fingerprint
    assert len({first, second, third}) == 3


Q = "model.layers.1.self_attn.q_proj.weight"
DAMAGE: dict[str, tuple[Callable[[dict[str, np.ndarray]], object], str]] = {
    "missing": (lambda t: t.pop(Q), f"tensor '{Q}' is missing (config.json describes 2 layers of family llama)"),
    "transposed": (
        lambda t: t.update({"model.layers.0.mlp.up_proj.weight": np.zeros((64, 96), np.float32)}),
        "'model.layers.0.mlp.up_proj.weight' has shape [64, 96], but config.json asks for [96, 64]",
    ),
    "off by one": (
        lambda t: t.update({Q: np.zeros((64, 63), np.float32)}),
        f"'{Q}' has shape [64, 63], but config.json asks for [64, 64]",
    ),
    "vocabulary": (
        lambda t: t.update({"model.embed_tokens.weight": np.zeros((255, 64), np.float32)}),
        "'model.embed_tokens.weight' has shape [255, 64], but config.json asks for [256, 64]",
    ),
    "extra": (lambda t: t.update(x=np.zeros(1, np.float32), y=np.zeros(1, np.float32)), "'x' and 1 more have no place"),
    "double": (lambda t: t.update({Q: t[Q].astype(np.float64)}), f"'{Q}' is F64, but weights must be F32, F16, BF16"),
    "int8": (lambda t: t.update({Q: t[Q].astype(np.int8)}), f"'{Q}' is I8, but weights must be"),
    "fp8": (lambda t: t.update({Q: t[Q].astype(ml_dtypes.float8_e4m3fn)}), f"'{Q}' is F8_E4M3, but weights must be"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_weights_are_refused_before_any_is_read(what: str, edit_weights: EditWeights):
    change, message = DAMAGE[what]
    folder = edit_weights(change)
    done: list[str] = []
    with pytest.raises(CheckpointError) as refusal:
        load_model(folder, progress=lambda *step: done.append(step[2]))
    assert message in str(refusal.value) and str(folder) in str(refusal.value) and "\n" not in str(refusal.value)
    assert not done


def test_a_config_with_another_number_of_layers_is_refused(edit_config: EditConfig):
    with pytest.raises(CheckpointError, match=r"tensor 'model.layers.2.input_layernorm.weight' is missing"):
        load_model(edit_config(num_hidden_layers=3))
    with pytest.raises(CheckpointError, match=r"'model.layers.1.* and \d+ more have no place in this model"):
        load_model(edit_config(num_hidden_layers=1))


def test_untied_embeddings_need_a_head(edit_config: EditConfig):
    with pytest.raises(CheckpointError, match=r"'lm_head.weight' is missing \(tie_word_embeddings is false"):
        load_model(edit_config(tie_word_embeddings=False))


def test_unknown_formats_and_types_are_refused(checkpoint: Path):
    with pytest.raises(ConfigError, match="load_format = 'pt', but one of auto, safetensors, dummy"):
        load_model(checkpoint, load_format="pt")
    with pytest.raises(ConfigError, match="dtype = 'int4', but one of auto, float32"):
        load_model(checkpoint, dtype="int4")


LOAD = """
import re, sys
from pathlib import Path
from orca_jax.models.load import load_model

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

load_model(sys.argv[1] + "/small", layers=sys.argv[2])
before = peak()
load_model(sys.argv[1] + "/large", layers=sys.argv[2])
print(peak() - before)
"""


def write_llama(folder: Path, width: int, layers: int) -> int:
    """A checkpoint of zeros; its size in bytes."""
    values = {
        "architectures": ["LlamaForCausalLM"], "vocab_size": 64, "hidden_size": width, "intermediate_size": 4 * width,
        "num_hidden_layers": layers, "num_attention_heads": 4, "max_position_embeddings": 64, "tie_word_embeddings": True,
    }  # fmt: skip
    family = MODEL_TYPES["llama"]
    pieces = [p for t in family.targets(family.config(Fields(values, "config.json"))) for p in t.pieces]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values))
    save_file({piece.tensor: np.zeros(piece.shape, np.float32) for piece in pieces}, folder / "model.safetensors")
    return sum(4 * math.prod(piece.shape) for piece in pieces)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says how much memory was needed at most")
@pytest.mark.parametrize("layers", ["unrolled", "scan"])
def test_the_host_never_holds_two_copies(layers: str, tmp_path: Path):
    write_llama(tmp_path / "small", 16, 12)
    total = write_llama(tmp_path / "large", 512, 12)
    run = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path), layers], capture_output=True, text=True, check=True, timeout=300
    )
    grown = int(run.stdout)
    # on CPU the device's copy lies in host memory, too: that one, and little beside it
    assert 0.9 * total < grown < 1.4 * total


def test_progress_is_reported_parameter_by_parameter(checkpoint: Path):
    steps: list[tuple[int, int, str]] = []
    loaded = load_model(checkpoint, progress=lambda *step: steps.append(step))
    assert len(steps) == len(jax.tree.leaves(loaded.model)) == len({name for _, _, name in steps})
    assert [done for done, _, _ in steps] == sorted(done for done, _, _ in steps)
    assert steps[-1][0] == steps[-1][1] == sum(leaf.nbytes for leaf in jax.tree.leaves(loaded.model))


def test_stacked_layers_hold_the_same_weights(checkpoint: Path):
    flat = parameters(load_model(checkpoint, layers="unrolled").model)
    stacked = parameters(load_model(checkpoint, layers="scan").model)
    for name, values in stacked.items():
        if name.startswith("layers."):
            each = [flat[name.replace("layers.", f"layers.{i}.", 1)] for i in range(2)]
            np.testing.assert_array_equal(values, np.stack(each), err_msg=name)
        else:
            np.testing.assert_array_equal(values, flat[name], err_msg=name)


def test_random_weights_need_only_a_config_and_follow_the_seed(tmp_path: Path, checkpoint: Path):
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    steps: list[tuple[int, int, str]] = []
    first = load_model(tmp_path, load_format="dummy", seed=5, progress=lambda *step: steps.append(step))
    assert_same(first.model, load_model(tmp_path, load_format="dummy", seed=5).model)
    values = parameters(first.model)
    other = parameters(load_model(tmp_path, load_format="dummy", seed=6).model)
    weight = "layers.0.mlp.up.weight"
    assert np.std(values[weight]) == pytest.approx(0.02, rel=0.05) and abs(np.mean(values[weight])) < 1e-3
    assert not np.array_equal(values[weight], other[weight])
    assert not np.array_equal(values[weight], values["layers.1.mlp.up.weight"])
    assert (values["norm.scale"] == 1).all() and (values["layers.0.mlp.up.bias"] == 0).all()
    assert steps[-1][0] == steps[-1][1] == sum(leaf.nbytes for leaf in jax.tree.leaves(first.model))


def test_a_shape_by_name_gets_random_weights_in_its_own_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    path = preset_path("qwen3-0.6b")
    assert path is not None
    text = path.read_text()
    for name, value in (("vocab_size", 64), ("hidden_size", 32), ("num_hidden_layers", 1), ("intermediate_size", 32)):
        text = "\n".join(f"{name} = {value}" if line.startswith(f"{name} ") else line for line in text.splitlines())
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.toml").write_text(text.replace("151643", "1").replace("151645", "2"))
    monkeypatch.setattr("orca_jax.models.presets.configs_dir", lambda: tmp_path)
    loaded = load_model("mine", load_format="dummy")
    assert loaded.dtype == jnp.bfloat16 and loaded.info.name == "mine" and loaded.info.eos_token_ids == (2,)


def test_an_abstract_model_has_no_memory():
    config = DecoderConfig("llama", 128256, 16384, 2, 128, 8, 128, 53248, 131072)
    leaves = jax.tree.leaves(nnx.state(abstract_model(config, "bfloat16")))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) and leaf.dtype == jnp.bfloat16 for leaf in leaves)
