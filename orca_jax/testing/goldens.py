"""Tiny random checkpoints made by `transformers`, with the logits and tokens that it gets from them.

The files are committed (tests/models/goldens), so that the suite needs neither torch nor transformers; where those are
installed, a test makes fresh ones and compares live. Run by scripts/make_goldens.
"""

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

PROMPT, CONTINUATION = 40, 16
GOLDEN = "golden.safetensors"

SMALL = dict(vocab_size=256, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128)  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}


@dataclass(frozen=True)
class Case:
    """One checkpoint. `weights_of` names the case whose weights it shares; `old` asks for config.json's older spelling."""

    name: str
    model: str
    config: dict[str, Any]
    dtype: str = "bfloat16"
    weights_of: str | None = None
    old: bool = False
    shards: str = "1GB"

    @property
    def stepwise(self) -> bool:
        """Dynamic NTK is defined token by token (see `models/rope.py`)."""
        return (self.config.get("rope_parameters") or {}).get("rope_type") == "dynamic"


def llama(name: str, rope: dict[str, Any], **config: Any) -> Case:
    return Case(
        f"llama-{name}", "Llama", {**SMALL, **config, "rope_parameters": rope}, weights_of="llama", shards="60KB"
    )


# fmt: off
CASES = (
    Case("gpt2", "GPT2LMHead", dict(vocab_size=256, n_embd=64, n_layer=2, n_head=4, n_positions=64, n_inner=96,
                                  bos_token_id=0, eos_token_id=0), "float32"),
    Case("opt", "OPT", dict(vocab_size=256, hidden_size=64, ffn_dim=96, num_hidden_layers=2, num_attention_heads=4,
                            max_position_embeddings=64, word_embed_proj_dim=64), "float16"),
    Case("llama", "Llama", SMALL, shards="60KB"),
    Case("llama-biases", "Llama", dict(SMALL, attention_bias=True, mlp_bias=True, tie_word_embeddings=True), "float32"),
    llama("linear", {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}),
    llama("dynamic", {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}, max_position_embeddings=24),
    llama("yarn", YARN, max_position_embeddings=64),
    llama("yarn-mscale", dict(YARN, beta_fast=8, beta_slow=2, mscale=1.5, mscale_all_dim=0.5, truncate=False)),
    llama("llama3", dict(YARN, rope_type="llama3", low_freq_factor=1.0, high_freq_factor=4.0)),
    Case("mistral", "Mistral", dict(SMALL, sliding_window=9), old=True),
    Case("qwen2", "Qwen2", dict(SMALL, use_sliding_window=True, sliding_window=7, max_window_layers=1,
                                tie_word_embeddings=True, rope_parameters={**YARN, "rope_theta": 50000.0}), old=True),
    Case("qwen3", "Qwen3", dict(SMALL, head_dim=32, tie_word_embeddings=True)),
)
# fmt: on


def make(case: Case, root: Path, seed: int = 0) -> Path:
    """Write one checkpoint with its golden file under `root`. The cases whose weights it shares must be there."""
    torch.manual_seed(seed)
    folder = root / case.name
    shutil.rmtree(folder, ignore_errors=True)
    config = getattr(transformers, case.model.removesuffix("LMHead") + "Config")(**case.config)
    architecture = case.model if case.model.endswith("Head") else case.model + "ForCausalLM"
    model = getattr(transformers, architecture + "Model" if architecture.endswith("Head") else architecture)(config)
    _scatter(model)
    model.to(getattr(torch, case.dtype)).save_pretrained(folder, max_shard_size=case.shards)
    if case.weights_of is not None:
        for file in (root / case.weights_of).glob("model*"):
            shutil.copy(file, folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if case.old:
        _respell(folder / "config.json")
    _write_golden(case, root, folder)
    return folder


def _scatter(model: torch.nn.Module) -> None:
    """Weights large enough for logits that spread, and norms and biases that are not all alike."""
    for name, parameter in model.named_parameters():
        centre = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
        torch.nn.init.normal_(parameter, centre, 0.15)


def _respell(path: Path) -> None:
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else {**rope, "type": rope["rope_type"]}
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config, indent=2) + "\n")


def _write_golden(case: Case, root: Path, folder: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    prompt = torch.randint(3, 256, (1, PROMPT))
    logits = _stepwise(model, prompt) if case.stepwise else _forward(model, prompt)
    tokens, margin = _greedy(model, prompt, case.stepwise)
    print(f"{case.name}: logits spread {logits.std():.2f}, closest call {margin / logits.std():.1e} of it")
    save_file({"prompt": prompt[0].numpy().astype(np.int32), "logits": logits, "greedy": tokens}, folder / GOLDEN)
    if case.weights_of is not None:
        for file in folder.glob("model*"):
            file.unlink()


@torch.no_grad()
def _forward(model: Any, tokens: torch.Tensor) -> np.ndarray:
    return model(tokens, use_cache=False).logits[0].numpy()


@torch.no_grad()
def _stepwise(model: Any, tokens: torch.Tensor) -> np.ndarray:
    cache, rows = None, []
    for i in range(tokens.shape[1]):
        out = model(tokens[:, i : i + 1], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        rows.append(out.logits[0, -1].numpy())
    return np.stack(rows)


def _greedy(model: Any, prompt: torch.Tensor, stepwise: bool) -> tuple[np.ndarray, float]:
    """The continuation, and the smallest lead that a chosen token had over the next best."""
    tokens, margin = prompt, float("inf")
    for _ in range(CONTINUATION):
        logits = (_stepwise if stepwise else _forward)(model, tokens)[-1]
        best = np.sort(logits)[-2:]
        margin = min(margin, float(best[1] - best[0]))
        tokens = torch.cat([tokens, torch.tensor([[int(logits.argmax())]])], dim=1)
    return tokens[0, PROMPT:].numpy().astype(np.int32), margin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("tests/models/goldens"))
    root = parser.parse_args().folder
    for case in CASES:
        make(case, root)
