"""Encoding and decoding, and what a damaged or foreign tokenizer folder is told."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from orca_jax.core.errors import CheckpointError, RequestError
from orca_jax.testing.tiny_tokenizer import SPECIALS, byte_level_tokenizer, write_tokenizer
from orca_jax.text.tokenizer import Tokenizer

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def edited(folder, change, name="tokenizer.json"):
    """Rewrite a JSON file of the folder after `change(content)`."""
    content = json.loads((folder / name).read_text(encoding="utf-8"))
    change(content)
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


@given(TEXT)
def test_round_trip(byte_level, byte_fallback, text):
    assert byte_level.decode(byte_level.encode(text), False) == text
    text = text.replace("▁", "_")  # sentencepiece's sign for a space
    assert byte_fallback.decode(byte_fallback.encode(text, False), False).removeprefix(" ") == text.removeprefix(" ")


def test_the_post_processor_decides_about_bos(tmp_path, byte_level, byte_fallback):
    assert byte_fallback.encode("a")[0] == byte_fallback.bos_id == 1
    assert 1 not in byte_fallback.encode("a", add_special_tokens=False)
    without = Tokenizer.from_folder(write_tokenizer(tmp_path / "a", add_bos_token=True))
    assert without.encode("hello") == byte_level.encode("hello")
    folder = write_tokenizer(tmp_path / "b", byte_level_tokenizer(bos=True), add_bos_token=False)
    with_bos = Tokenizer.from_folder(folder)
    assert with_bos.encode("hello") == [1, *byte_level.encode("hello")]


def test_special_tokens_and_sizes(byte_level):
    assert (byte_level.eos_id, byte_level.bos_id) == (0, 1)
    assert byte_level.special_ids == {0, 1, 2, 3} and byte_level.vocab_size == 320
    ids = byte_level.encode("<|user|>hi<|end|>")
    assert ids[0] == 2 and ids[-1] == 0
    assert byte_level.decode(ids) == "hi" and byte_level.decode(ids, False) == "<|user|>hi<|end|>"
    assert byte_level.decode([10**6]) == ""
    assert byte_level.statistics()["vocab_size"] == 320


def test_padding_and_truncation_saved_in_the_file_are_off(tmp_path):
    backend = byte_level_tokenizer()
    backend.enable_truncation(4)
    backend.enable_padding(length=8)
    tokenizer = Tokenizer.from_folder(write_tokenizer(tmp_path, backend))
    assert tokenizer.decode(tokenizer.encode("a longer text than four tokens")) == "a longer text than four tokens"
    assert len(tokenizer.encode("a")) == 1


def test_token_text_keeps_spaces_and_marks_halves(byte_level, byte_fallback):
    assert byte_level.token_texts(byte_level.encode("the world")) == [
        byte_level.decode([i]) for i in byte_level.encode("the world")
    ]
    assert byte_fallback.token_text(byte_fallback.encode("the", False)[0]) == " the"
    assert byte_fallback.token_text(byte_fallback.backend.token_to_id("<0xE2>")) == "\ufffd"
    assert byte_level.token_text(0) == "<|end|>"
    assert byte_level.token_text(319_000) == ""


def test_what_is_no_text_or_no_token_is_refused(byte_level):
    with pytest.raises(RequestError, match="unpaired surrogate at 1"):
        byte_level.encode("a\ud800")
    with pytest.raises(RequestError, match="must be a string, got 5"):
        byte_level.encode(5)
    for bad in (-1, 2**31, 10**400):
        with pytest.raises(RequestError, match="outside the vocabulary"):
            byte_level.decode([bad])


def test_a_long_text_is_not_encoded_whole(byte_level, monkeypatch):
    looked_at = []
    real = Tokenizer.encode
    monkeypatch.setattr(Tokenizer, "encode", lambda self, t, *a: looked_at.append(len(t)) or real(self, t, *a))
    ids, whole = byte_level.encode_at_most("ab" * 10**6, 100)
    assert not whole and len(ids) > 200 and sum(looked_at) < 20_000
    ids, whole = byte_level.encode_at_most("ab" * 60, 100)
    assert whole and ids == real(byte_level, "ab" * 60)


def test_missing_and_foreign_tokenizers(tmp_path):
    with pytest.raises(CheckpointError, match="is not a folder"):
        Tokenizer.from_folder(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenization_own.py").write_text("raise SystemExit('code ran')")
    with pytest.raises(CheckpointError, match="written in Python, whose code is never run"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e")
    with pytest.raises(CheckpointError, match=r"only tokenizer\.model, which is not supported"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "holds a list"),
        (b"\xff\xfe{}", "cannot be read as UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"{}", "no 'model' object"),
        (b'{"model": {"vocab": {"a": -1}}}', "must map token texts to ids"),
        (b'{"model": {"vocab": {"a": 0}}}', "cannot be loaded"),
    ],
)
def test_corrupt_files(tmp_path, content, message):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        Tokenizer.from_folder(tmp_path)
    assert "tokenizer.json" in str(caught.value) and len(str(caught.value)) < 500


def test_an_enormous_file_is_not_read(tmp_path):
    with open(tmp_path / "tokenizer.json", "wb") as file:
        file.truncate(500 * 2**20)
    with pytest.raises(CheckpointError, match="at most 134217728 are accepted"):
        Tokenizer.from_folder(tmp_path)


def collide(description, **changes):
    description["added_tokens"].append({**description["added_tokens"][0], **changes})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: collide(c, content="<b>"), r"added_tokens gives id 0 to '<b>', but it is '<\|end\|>'"),
        (lambda c: collide(c, id=4000), r"added_tokens gives '<\|end\|>' id 4000, but it has id 0"),
        (lambda c: collide(c, content="<b>", id=4000), "'<b>' id 4000, but it loads as 320"),
        (lambda c: c["model"]["vocab"].update({"zz": 9}), "id 9 stands for both"),
        (lambda c: c["added_tokens"].append({"content": "x"}), "lacks an id"),
        (lambda c: c.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated",
                                           "invert": False}), "the tokenizer fails on plain text such as 'aaaaaaaa'"),
    ],
)  # fmt: skip
def test_contradictions_in_the_file(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.from_folder(edited(write_tokenizer(tmp_path), change))


def test_tokens_that_only_the_configuration_knows(tmp_path):
    new = {"content": "<|tool|>", "special": True}
    tokenizer = Tokenizer.from_folder(write_tokenizer(tmp_path / "a", added_tokens_decoder={"320": new}))
    assert tokenizer.encode("<|tool|>") == [320] and 320 in tokenizer.special_ids and tokenizer.vocab_size == 321
    for place in ("5", "400"):
        folder = write_tokenizer(tmp_path / place, added_tokens_decoder={place: new})
        with pytest.raises(CheckpointError, match=rf"'<\|tool\|>' id {place}, but tokenizer.json has"):
            Tokenizer.from_folder(folder)
    plain = Tokenizer.from_folder(write_tokenizer(tmp_path / "c", additional_special_tokens=["a"], pad_token="<none>"))
    assert plain.backend.token_to_id("a") in plain.special_ids and plain.vocab_size == 320


def test_an_end_of_sequence_that_is_no_token(tmp_path):
    with pytest.raises(CheckpointError, match="eos_token '</s>' is not in the tokenizer's vocabulary"):
        Tokenizer.from_folder(write_tokenizer(tmp_path, eos_token={"content": "</s>"}))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|user|>", "bos_token": "a"}))
    edited(tmp_path, lambda c: c.pop("eos_token"), "tokenizer_config.json")
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert (tokenizer.eos_id, tokenizer.bos_id) == (2, 1)


def test_a_vocabulary_larger_than_the_embedding(byte_level):
    byte_level.check_vocabulary(320)
    with pytest.raises(CheckpointError, match="ids up to 319, but the model embeds only 319 tokens"):
        byte_level.check_vocabulary(319)


def test_the_older_pair_of_files(tmp_path, byte_level):
    backend: Backend = byte_level_tokenizer()
    backend.model.save(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|begin|>", "add_bos_token": True}))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.encode("hello world") == [1, *byte_level.encode("hello world")]
    assert tokenizer.decode(tokenizer.encode("hello 🙂")) == "hello 🙂"
    assert tokenizer.vocab_size == 320 and SPECIALS[1] == tokenizer.token_text(1)


def test_chat_templates_by_name(tmp_path):
    named = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    folder = write_tokenizer(tmp_path, chat_template=named)
    assert Tokenizer.from_folder(folder).chat_templates == {"default": "a", "tool_use": "b"}
    (folder / "chat_template.jinja").write_text("c")
    assert Tokenizer.from_folder(folder).chat_templates == {"default": "c"}
    with pytest.raises(CheckpointError, match="chat_template is neither text nor a list"):
        Tokenizer.from_folder(write_tokenizer(tmp_path / "x", chat_template=[{"name": "n"}]))
