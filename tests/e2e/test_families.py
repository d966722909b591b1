"""Every family through the paged engine, in chunks and together: the continuations are those of transformers."""

from pathlib import Path

import pytest
from safetensors.numpy import load_file

from orca_jax import LLM, SamplingParams

GOLDENS = Path(__file__).parent.parent / "models" / "goldens"
NAMES = sorted(path.parent.name for path in GOLDENS.glob("*/model*.safetensors"))


def test_every_family_is_there():
    assert {"gpt2", "opt", "llama", "mistral", "qwen2", "qwen3"} <= {name.partition("-")[0] for name in NAMES}


@pytest.mark.parametrize("name", sorted(set(NAMES)))
def test_an_engine_says_what_transformers_says(name: str):
    expected = load_file(GOLDENS / name / "golden.safetensors")
    prompt, answer = expected["prompt"].tolist(), expected["greedy"].tolist()
    settings = {"dtype": "float32", "max_num_seqs": 4, "max_num_batched_tokens": 4, "block_size": 4}
    company = [[1, 2, 3], prompt, [5] * 11]
    with LLM(GOLDENS / name, skip_tokenizer_init=True, compilation_cache_dir=None, **settings) as llm:
        params = SamplingParams(temperature=0.0, max_tokens=len(answer), ignore_eos=True)
        outputs = llm.generate(company, params, use_tqdm=False)
    assert outputs[1].outputs[0].token_ids == answer
