"""Compilers over the tiny tokenizers, and a random walk that stands for a model with nothing in mind."""

import numpy as np
import pytest

from orca_jax.core.structured_outputs import StructuredOutputsParams
from orca_jax.grammar.compiler import GrammarCompiler
from orca_jax.testing.tiny_tokenizer import sentencepiece_like_tokenizer, write_tokenizer
from orca_jax.text.tokenizer import Tokenizer

PADDED = 350  # rows of the model's embedding: 30 more than the tokenizer has ids


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return Tokenizer.from_folder(write_tokenizer(tmp_path_factory.mktemp("grammar")))


@pytest.fixture(scope="session")
def compiler(tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer, PADDED, (0,))


@pytest.fixture(scope="session")
def byte_fallback(tmp_path_factory) -> Tokenizer:
    folder = write_tokenizer(
        tmp_path_factory.mktemp("fallback"), sentencepiece_like_tokenizer(), bos_token="<s>", eos_token="</s>"
    )
    return Tokenizer.from_folder(folder)


def allowed(matcher, words) -> list[int]:
    line = np.zeros(words, np.int32)
    matcher.fill(line)
    return np.flatnonzero(np.unpackbits(line.view(np.uint8), bitorder="little")).tolist()


def walk(compiler, tokenizer, seed, most=200, eos_ids=(0,), **asked) -> tuple[str, bool]:
    """The text of random allowed tokens, and whether it came to its end."""
    grammar = compiler.compile(StructuredOutputsParams(**asked))
    matcher, random = grammar.matcher(eos_ids), np.random.default_rng(seed)
    tokens: list[int] = []
    for _ in range(most):
        token = int(random.choice(allowed(matcher, grammar.words)))
        if token in eos_ids:
            return tokenizer.decode(tokens, False), True
        tokens.append(token)
        matcher.accept(token)
        if matcher.finished:
            return tokenizer.decode(tokens, False), True
    return tokenizer.decode(tokens, False), False
