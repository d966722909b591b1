"""Writes demo_model_logits.npz: what transformers makes of the shipped model. Run it after every training of that model.

Needs torch and transformers: `python tests/train/make_demo_golden.py`.
"""

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent
MODEL = HERE.parents[1] / "orca_jax/demo_model"
PROMPT = 'def fibonacci(n):\n    """Return the n-th number."""\n    if n < 2:\n        return n\n'
NEW_TOKENS = 24


def main() -> None:
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(MODEL)(PROMPT, return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model(ids).logits[0, -2:].numpy()
        answer = model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False)[0, ids.shape[1] :].numpy()
    np.savez_compressed(HERE / "demo_model_logits.npz", prompt=ids[0].numpy(), logits=logits, answer=answer)


if __name__ == "__main__":
    main()
