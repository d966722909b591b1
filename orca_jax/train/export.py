"""Writes trained weights as an ordinary Hugging Face folder, which this package and transformers load alike."""

import json
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from orca_jax.models.config import DecoderConfig
from orca_jax.models.families.llama import LLAMA
from orca_jax.train.model import Parameters
from orca_jax.train.tokenizer import END, save_tokenizer

LICENSE_NOTE = """\
The weights and the tokenizer in this folder were trained on the source code of the Python standard library (CPython),
which is Copyright (c) 2001 Python Software Foundation; All Rights Reserved, and is licensed under the Python Software
Foundation License Version 2 (https://docs.python.org/3/license.html; the text, where the interpreter that trained the
model ships it, is in LICENSE.python.txt). Answers may repeat passages of those sources, and that licence covers them.

The weights themselves, as far as they are a work of their own, are offered under the Apache License 2.0 like the rest of
this package.
"""


def tensors(config: DecoderConfig, parameters: Parameters) -> dict[str, np.ndarray]:
    """The weights in bfloat16 under the names and in the shapes that a Llama checkpoint has.

    The inverse of the loader's own table, whose Llama pieces are only cut and reshaped.
    """
    out = {}
    for target in LLAMA.targets(config):
        weight = np.asarray(parameters[".".join(map(str, target.path))]).astype(ml_dtypes.bfloat16)
        for piece in target.pieces:
            out[piece.tensor] = np.ascontiguousarray(weight[piece.where].reshape(piece.shape))
    return out


def rounded(parameters: Parameters) -> Parameters:
    """The weights as they will ship: rounded to bfloat16, kept in float32."""
    return {name: np.asarray(w).astype(ml_dtypes.bfloat16).astype(np.float32) for name, w in parameters.items()}


def hf_config(config: DecoderConfig, end: int) -> dict[str, Any]:
    """`config.json`, in the older spelling that every reader understands."""
    c = config
    return {
        "architectures": [LLAMA.architecture],
        "model_type": LLAMA.name,
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_kv_heads,
        "head_dim": c.head_dim,
        "intermediate_size": c.intermediate_size,
        "max_position_embeddings": c.max_position_embeddings,
        "hidden_act": "silu",
        "rms_norm_eps": c.norm_eps,
        "rope_theta": c.rope.theta if c.rope else 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": c.tie_embeddings,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "torch_dtype": "bfloat16",
    }


def export(folder: Path, config: DecoderConfig, parameters: Parameters, tokenizer: Tokenizer, library: Path) -> None:
    """Writes everything but the model card into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    end = tokenizer.token_to_id(END)
    weights = folder / "model.safetensors"
    save_file(tensors(config, parameters), str(weights), metadata={"format": "pt"})
    weights.chmod(0o644)  # the library makes it readable to its owner alone
    save_tokenizer(tokenizer, folder, config.max_position_embeddings)
    write_json(folder / "config.json", hf_config(config, end))
    write_json(folder / "generation_config.json", {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end})
    (folder / "LICENSE").write_text(LICENSE_NOTE, "utf-8")
    licence = library / "LICENSE.txt"
    if licence.is_file():
        shutil.copyfile(licence, folder / "LICENSE.python.txt")


def write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
