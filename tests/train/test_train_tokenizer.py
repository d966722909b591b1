import json

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_jax.train.corpus import library_root
from orca_jax.train.tokenizer import CHAT_TEMPLATE, SPECIAL, chat_text, save_tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([(library_root() / name).read_text("utf-8") for name in ("heapq.py", "textwrap.py")], 600)


@given(text=st.text())
def test_no_text_is_out_of_vocabulary(tokenizer, text):
    ids = tokenizer.encode(text).ids
    if not any(mark in text for mark in SPECIAL):
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_the_markers_are_the_first_tokens(tokenizer):
    assert [tokenizer.token_to_id(mark) for mark in SPECIAL] == [0, 1, 2, 3]
    assert tokenizer.encode("<|user|>hi<|end|>").ids[0] == 2
    assert tokenizer.get_vocab_size() == 600


def test_a_line_break_takes_its_indentation_along_and_digits_stand_alone(tokenizer):
    assert tokenizer.encode("\n        ").ids == [tokenizer.token_to_id("Ċ" + "Ġ" * 8)]
    digits = [tokenizer.token_to_id(digit) for digit in "1234"]
    assert tokenizer.encode("1234").ids == digits


def test_the_template_writes_what_the_training_read(tokenizer, tmp_path):
    template = jinja2.Template(CHAT_TEMPLATE)
    question = [{"role": "user", "content": "Q"}]
    answered = [*question, {"role": "assistant", "content": "A"}]
    assert template.render(messages=answered) == chat_text("Q", "A") + "<|end|>"
    assert template.render(messages=question, add_generation_prompt=True) == chat_text("Q", "")
    save_tokenizer(tokenizer, tmp_path, 64)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["chat_template"] == CHAT_TEMPLATE and config["eos_token"] == SPECIAL[0]
