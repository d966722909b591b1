"""What a run learns from and is judged by, as token ids: the library's modules and conversations made of them."""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer

from orca_jax.train.config import TrainConfig
from orca_jax.train.corpus import Module, conversations, read_modules, split
from orca_jax.train.tokenizer import chat_text, train_tokenizer

Document = Int[np.ndarray, " n"]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Token ids `uint16[n]` of each document, without the end-of-sequence; `held_out_bytes` is the text's size in UTF-8."""

    tokenizer: Tokenizer
    train: list[Document]
    held_out: list[Document]
    held_out_names: list[str]
    held_out_bytes: int


def build_dataset(config: TrainConfig, root: Path, tokenizer: Tokenizer | None = None) -> Dataset:
    """Reads the modules under `root`; without a `tokenizer` (a fresh run) one is trained on the training part."""
    train, held_out = split(read_modules(root), config.data.seed, config.data.held_out)
    if tokenizer is None:
        tokenizer = train_tokenizer((module.text for module in train), config.model.vocab_size)
    chats = sample_conversations(train, config.data.conversation_share, config.data.seed)
    texts = [module.text for module in train] + chats
    return Dataset(
        tokenizer=tokenizer,
        train=[_encode(tokenizer, text) for text in texts],
        held_out=[_encode(tokenizer, module.text) for module in held_out],
        held_out_names=[module.path for module in held_out],
        held_out_bytes=sum(len(module.text.encode()) for module in held_out),
    )


def sample_conversations(modules: list[Module], share: float, seed: int) -> list[str]:
    """Conversations that make up `share` of the training text, drawn without replacement."""
    texts = [chat_text(question, answer) for module in modules for question, answer in conversations(module)]
    random.Random(seed).shuffle(texts)
    budget = share / (1.0 - share) * sum(len(module.text) for module in modules)
    chosen = []
    for text in texts:
        if budget <= 0:
            break
        chosen.append(text)
        budget -= len(text)
    return chosen


def _encode(tokenizer: Tokenizer, text: str) -> Document:
    return np.asarray(tokenizer.encode(text).ids, np.uint16)
