"""Tokenizers of a few hundred tokens, written as a checkpoint's files, so that tests need none from elsewhere."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

CORPUS = [
    "def main():\n    return 'hello world'\n",
    "for i in range(10):\n    print(i, 'the quick brown fox')\n",
    "Ünïcödé, 日本語 and 🙂 take several bytes a character.",
] * 3
SPECIALS = ["<|end|>", "<|begin|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] | trim }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_level_tokenizer(vocab_size: int = 320, bos: bool = False) -> Tokenizer:
    """Byte-level BPE: every text can be encoded; ids 0 to 3 are `SPECIALS`; with `bos`, encoding begins with one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIALS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=["<|begin|>", "$A"], special_tokens=[("<|begin|>", 1)]
        )
    return tokenizer


def sentencepiece_like_tokenizer() -> Tokenizer:
    """Llama 2's form: spaces as U+2581, one prepended, characters outside the vocabulary as byte tokens."""
    words = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)]]
    words += ["▁", *"abcdefghijklmnopqrstuvwxyz.,!'", "▁a", "▁th", "▁the", "th", "he"]
    merges = [("▁", "a"), ("t", "h"), ("▁", "th"), ("▁th", "e"), ("h", "e")]
    model = models.BPE(
        vocab={w: i for i, w in enumerate(words)}, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(single=["<s>", "$A"], special_tokens=[("<s>", 1)])
    return tokenizer


def write_tokenizer(folder: Path, tokenizer: Tokenizer | None = None, **config: Any) -> Path:
    """Write tokenizer.json and tokenizer_config.json to `folder`; `config` overrides the latter's entries."""
    folder.mkdir(parents=True, exist_ok=True)
    (tokenizer or byte_level_tokenizer()).save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "chat_template": CHAT_TEMPLATE} | config
    settings = {key: value for key, value in settings.items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder
