"""The offline door over the real engine: one tiny model, one compiled shape."""

import gc
import json
import weakref
from pathlib import Path

import jax
import pytest

from orca_jax import LLM, SamplingParams
from orca_jax.cli.main import main
from orca_jax.core.config import EngineConfig, load_settings
from orca_jax.core.errors import CheckpointError, ConfigError
from orca_jax.core.events import IterationLaunched
from orca_jax.core.resources import configs_dir
from orca_jax.engine import build
from orca_jax.testing.tiny_tokenizer import write_tokenizer

SETTINGS = {"load_format": "dummy", "max_num_seqs": 4, "max_num_batched_tokens": 4, "compilation_cache_dir": None}
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 320, "hidden_size": 32,
    "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
    "eos_token_id": 0, "tie_word_embeddings": True, "torch_dtype": "float32",
}  # fmt: skip


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tokenizer(tmp_path_factory.mktemp("model"))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def test_a_real_engine_answers_alike_alone_and_in_company_and_frees_what_it_took(model_folder):
    gc.collect()
    before = {id(array) for array in jax.live_arrays()}
    llm = LLM(model_folder, **SETTINGS)
    params = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
    prompts = ["def f(x):", "for i in", "import", "class A:", "hello world"]
    together = llm.generate(prompts, params, use_tqdm=False)
    alone = [llm.generate(prompt, params, use_tqdm=False)[0] for prompt in prompts]
    assert [o.outputs[0].token_ids for o in together] == [o.outputs[0].token_ids for o in alone]
    assert all(output.outputs[0].finish_reason == "length" for output in together)
    (said,) = llm.chat([{"role": "user", "content": "hello"}], params, use_tqdm=False)
    assert len(said.outputs[0].token_ids) == 6
    assert llm.statistics()["compiles_after_warm_up"] == 0
    assert llm.info.max_model_len == 64 and llm.info.max_num_seqs == 4
    gone = weakref.ref(llm)
    del llm
    gc.collect()
    assert gone() is None
    left = [array for array in jax.live_arrays() if id(array) not in before and not array.is_deleted()]
    assert sum(array.nbytes for array in left) < 4096


def test_in_deterministic_mode_an_llm_answers_bitwise_alike_alone_and_in_company(model_folder):
    params = SamplingParams(temperature=0.9, seed=3, max_tokens=9, ignore_eos=True, logprobs=2)
    prompts = ["def f(x):", "for i in range(10): print(i)", "import", "class A:", "hello world"]
    with LLM(model_folder, **{**SETTINGS, "max_num_batched_tokens": None}, deterministic=True, dtype="bfloat16") as llm:
        assert llm.info.deterministic and len(llm.info.buckets) == 1
        together = llm.generate(prompts, params, use_tqdm=False)
        alone = [llm.generate(prompt, params, use_tqdm=False)[0] for prompt in prompts]
    for a, b in zip(together, alone, strict=True):
        assert a.outputs[0].token_ids == b.outputs[0].token_ids
        assert a.outputs[0].logprobs == b.outputs[0].logprobs  # floats, compared with ==


@pytest.mark.parametrize(("budget", "together"), [(4 * 4, 3), (4, 1)])
def test_the_faithful_mode_runs_all_selected_prompts_at_once_where_its_largest_shape_holds_them(
    model_folder, budget, together
):
    """Algorithm 1 knows no budget; the engine's largest compiled shape is one, and configs/engines/faithful.toml says so."""
    launched = []
    settings = {
        **load_settings(configs_dir() / "engines" / "faithful.toml"),
        **SETTINGS,
        "max_num_batched_tokens": budget,
        "max_model_len": 4,
    }
    with LLM(model_folder, **settings, observers=[launched.append]) as llm:
        llm.generate([[1, 2, 3]] * 3, SamplingParams(temperature=0, max_tokens=1), use_tqdm=False)
    first = next(event for event in launched if isinstance(event, IterationLaunched))
    assert [row.count for row in first.rows] == [3] * together


def test_info_plans_without_building(model_folder, capsys):
    flags = ["--load-format", "dummy", "--max-num-seqs", "4", "--max-num-batched-tokens", "8"]
    assert main(["info", "--model", str(model_folder), *flags]) == 0
    out = capsys.readouterr().out
    assert "LlamaForCausalLM" in out and "4x4 8x4" in out and "8 tokens" in out and "K/V pool" in out


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_model_len": 65}, ConfigError, "max_model_len = 65"),
        ({"kv_cache_memory_bytes": 100}, ConfigError, "the K/V pool would hold 0 pages"),
        ({"attention_backend": "magic"}, ConfigError, "attention_backend = 'magic'"),
        ({"max_num_batched_tokens": 32, "enable_chunked_prefill": False}, ConfigError, "max_num_batched_tokens = 32"),
        ({"kv_cache_memory_bytes": 2**50}, ConfigError, "kv_cache_memory_bytes = 1125899906842624, but"),
        ({"tokenizer": "/nowhere"}, (CheckpointError, ConfigError), "/nowhere"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused_before_the_load(
    model_folder, monkeypatch, settings, error, message
):
    monkeypatch.setattr("orca_jax.engine.build.fill_model", lambda *args: pytest.fail("weights were loaded before"))
    with pytest.raises(error) as caught:
        LLM(model_folder, **{**SETTINGS, **settings})
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_that_is_larger_than_the_machine_is_refused_by_its_size():
    with pytest.raises(ConfigError, match=r"the weights of gpt-341b take \d+ bytes in bfloat16, but .* bytes free"):
        LLM("gpt-341b", load_format="dummy", skip_tokenizer_init=True, compilation_cache_dir=None)


def test_deterministic_mode_pins_one_shape_and_attention_that_ignores_company(model_folder):
    config = EngineConfig(model=str(model_folder), load_format="dummy", deterministic=True)
    info = build.plan_engine(config)
    assert [(bucket.tokens, bucket.rows) for bucket in info.buckets] == [(64, 64)]
    assert info.max_num_batched_tokens == 64 and info.deterministic
    options = build.executor_options(info, build.outline(config)[0])
    assert options.attention.uniform and options.buckets == info.buckets
