"""One tokenizer of each kind, built once."""

import pytest

from orca_jax.testing.tiny_tokenizer import sentencepiece_like_tokenizer, write_tokenizer
from orca_jax.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory) -> Tokenizer:
    return Tokenizer.from_folder(write_tokenizer(tmp_path_factory.mktemp("byte_level")))


@pytest.fixture(scope="session")
def byte_fallback(tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("byte_fallback")
    tokenizer = sentencepiece_like_tokenizer()
    return Tokenizer.from_folder(write_tokenizer(folder, tokenizer, bos_token="<s>", eos_token="</s>"))
