"""The end of a run: the folder that ships, what it scores as shipped, and a model card that says so."""

import platform
from pathlib import Path
from typing import Any

from orca_jax.train.curve import draw_curve
from orca_jax.train.evaluate import bits_per_byte, held_out_windows
from orca_jax.train.export import export, rounded, write_json
from orca_jax.train.loop import Trainer
from orca_jax.train.sample import complete
from orca_jax.train.step import make_losses
from orca_jax.train.tokenizer import END

PROMPTS = ("def fibonacci(n):", "class Stack:", "import os\n")
"""The card shows these, whatever the model makes of them."""

CARD = """\
---
license: other
license_name: psf-2.0
license_link: LICENSE
language: code
pipeline_tag: text-generation
---
# The demo model of orca-jax

A Llama of {millions:.2f} million parameters ({layers} layers, width {width}, {heads} query and {kv_heads} key/value heads,
vocabulary {vocabulary}, context {context}), trained from scratch by `scripts/train_demo` on the standard library of
Python {python}. It is here so that the engine can be tried without a network: it writes text that looks like Python, and
it is too small to write programs that work.

| | |
| --- | --- |
| held-out bits per byte | **{bits_per_byte:.3f}** ({held_out_modules} modules, {held_out_bytes:,} bytes) |
| tokens seen | {tokens:,} in {steps:,} updates ({epochs:.1f} passes over {unique_tokens:,}) |
| wall time | {minutes:.0f} minutes on {device} |
| weights | bfloat16, tied embeddings, {megabytes:.1f} MB |
| special tokens | `<\\|end\\|>` ends modules and answers; `<\\|system\\|>`, `<\\|user\\|>`, `<\\|assistant\\|>` |

Held out (by a seeded hash of the path): {held_out_names}. Test packages and generated character tables were not read.
Five per cent of the text are conversations made from the library's own functions: "Write a function NAME: first line of
its docstring", answered by the source. Answers to anything else are modest.

Held-out tokens are predicted from at least half a context ({half} tokens) where the module has as much before them.
A prompt should not end in a line break: the tokenizer joins a line break with the indentation behind it, so a line
break by itself mostly means the end of a module, and the model says so by ending.

## What it writes

Greedy, {max_tokens} tokens at most; the prompts were chosen before the model was trained.

{samples}
## Licence

Trained on the sources of the Python standard library, which are under the Python Software Foundation License; see
`LICENSE`.
"""


def finish(trainer: Trainer, folder: Path, library: Path) -> dict[str, Any]:
    """Exports to `folder`, evaluates those very weights, writes the card, and returns the measured facts."""
    dataset, config = trainer.dataset, trainer.decoder
    export(folder, config, trainer.parameters, dataset.tokenizer, library)
    weights = rounded(trainer.parameters)
    end = dataset.tokenizer.token_to_id(END)
    losses = make_losses(config)
    windows = held_out_windows(dataset.held_out, end=end, length=config.max_position_embeddings)
    bits = bits_per_byte(lambda *w: losses(weights, *w), windows, dataset.held_out_bytes, trainer.config.data.batch)
    unique = sum(map(len, dataset.train))
    facts = {
        "bits_per_byte": round(bits, 4),
        "parameters": sum(weight.size for weight in weights.values()),
        "bytes": (folder / "model.safetensors").stat().st_size,
        "steps": trainer.progress.step,
        "tokens": trainer.progress.tokens,
        "unique_tokens": unique,
        "minutes": round(trainer.progress.seconds / 60, 1),
        "held_out_bytes": dataset.held_out_bytes,
        "held_out_names": dataset.held_out_names,
        "python": platform.python_version(),
    }
    write_json(folder / "training.json", facts)
    samples = complete(config, weights, dataset.tokenizer, PROMPTS, end=end, max_tokens=64)
    (folder / "README.md").write_text(_card(trainer, facts, samples), "utf-8")
    draw_curve(trainer.progress.curve, trainer.folder / "curve.png", f"demo model: {bits:.3f} bits per byte at the end")
    return facts


def _card(trainer: Trainer, facts: dict[str, Any], samples: list[str]) -> str:
    c = trainer.decoder
    shown = [f"```python\n{prompt}{answer}\n```\n" for prompt, answer in zip(PROMPTS, samples, strict=True)]
    return CARD.format(
        **{key: value for key, value in facts.items() if key != "held_out_names"},
        millions=facts["parameters"] / 1e6,
        layers=c.num_layers,
        width=c.hidden_size,
        heads=c.num_heads,
        kv_heads=c.num_kv_heads,
        vocabulary=c.vocab_size,
        context=c.max_position_embeddings,
        half=c.max_position_embeddings // 2,
        held_out_modules=len(facts["held_out_names"]),
        held_out_names=", ".join(f"`{name}`" for name in facts["held_out_names"]),
        epochs=facts["tokens"] / facts["unique_tokens"],
        device=trainer.device_line(),
        megabytes=facts["bytes"] / 1e6,
        max_tokens=64,
        samples="\n".join(shown),
    )
