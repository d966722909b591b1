"""A compiler over the tiny tokenizer, for a model with more rows than that has ids."""

import pytest

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
