"""Incremental text against decoding everything at once, on random ids and on real text."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders

from orca_jax.testing.tiny_tokenizer import byte_level_tokenizer, write_tokenizer
from orca_jax.text.detokenizer import BytesDetokenizer, WindowDetokenizer, detokenizer_for
from orca_jax.text.tokenizer import Tokenizer

IDS = st.lists(st.integers(0, 325), max_size=30)  # a few of them no token's
TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("é日🙂 the"), max_size=20)


def increments(tokenizer, ids, **options):
    detokenizer = detokenizer_for(tokenizer, **options)
    return [*(detokenizer.push(token) for token in ids), detokenizer.finish()]


@settings(max_examples=300)
@given(IDS, st.booleans())
def test_byte_level_equals_decoding_at_once(byte_level, ids, skip):
    pieces = increments(byte_level, ids, skip_special_tokens=skip)
    assert "".join(pieces) == byte_level.decode(ids, skip)


@settings(max_examples=200)
@given(IDS, IDS, st.booleans())
def test_after_a_prompt_the_rest_of_the_whole_text_comes(byte_level, prompt, ids, skip):
    whole = byte_level.decode(prompt + ids, skip)
    pieces = increments(byte_level, ids, prompt=prompt, skip_special_tokens=skip)
    assert whole.endswith("".join(pieces))
    certain = "".join(increments(byte_level, prompt, skip_special_tokens=skip)[:-1])
    if len(prompt) <= 8:
        assert certain + "".join(pieces) == whole


@given(TEXT, st.booleans())
def test_byte_fallback_equals_decoding_at_once_for_text(byte_fallback, text, bos):
    ids = byte_fallback.encode(text, bos)
    for skip in (False, True):
        assert "".join(increments(byte_fallback, ids, skip_special_tokens=skip)) == byte_fallback.decode(ids, skip)


def test_invalid_bytes_spoil_only_themselves(byte_fallback):
    ids = [byte_fallback.backend.token_to_id(f"<0x{byte:02X}>") for byte in "€".encode() + b"\xff"]
    assert increments(byte_fallback, ids) == ["", "", "€", "\ufffd", ""]


def test_a_leading_space_depends_on_the_prompt(byte_fallback):
    the = byte_fallback.encode("the", False)
    assert "".join(increments(byte_fallback, the)) == "the"
    assert "".join(increments(byte_fallback, the, prompt=[1])) == "the"
    assert "".join(increments(byte_fallback, the, prompt=[1, *the])) == " the"


@given(TEXT)
def test_never_half_a_character(byte_level, byte_fallback, text):
    text = text.replace("\ufffd", "")
    for tokenizer in (byte_level, byte_fallback):
        pieces = increments(tokenizer, tokenizer.encode(text, False))
        assert not any("\ufffd" in piece for piece in pieces) and pieces[-1] == ""


def test_a_character_appears_with_its_last_byte(byte_level):
    ids = byte_level.encode("é🙂")
    assert "".join(increments(byte_level, ids[:-1])) == "é\ufffd"
    pieces = increments(byte_level, ids)
    assert pieces[-2].endswith("🙂") and not any("🙂" in p or "\ufffd" in p for p in pieces[:-2])


@pytest.fixture(scope="module")
def windowed(tmp_path_factory):
    backend = byte_level_tokenizer()
    backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip("#", 0, 0)])  # nothing we can read
    return Tokenizer.from_folder(write_tokenizer(tmp_path_factory.mktemp("window"), backend))


@given(TEXT)
@example("\ufffd\ufffd日")
@example("\ufffd" * 20 + "🙂")
def test_any_other_decoder_goes_through_a_window(windowed, text):
    ids = windowed.encode(text)
    assert isinstance(detokenizer_for(windowed), WindowDetokenizer)
    assert "".join(increments(windowed, ids, skip_special_tokens=False)) == text


def test_the_window_stays_small(windowed, byte_level, monkeypatch):
    assert isinstance(detokenizer_for(byte_level), BytesDetokenizer)
    longest = []
    real = Tokenizer.decode
    monkeypatch.setattr(Tokenizer, "decode", lambda self, ids, skip: longest.append(len(ids)) or real(self, ids, skip))
    broken = windowed.backend.token_to_id("ð")  # 0xF0, the first byte of four
    increments(windowed, [broken] * 100 + windowed.encode("hello " * 50))
    assert max(longest) <= 16


def test_spaces_between_special_tokens(tmp_path):
    backend = byte_level_tokenizer()
    backend.decoder = decoders.WordPiece("##", False)
    words = Tokenizer.from_folder(write_tokenizer(tmp_path, backend))
    options = {"skip_special_tokens": False, "spaces_between_special_tokens": False}
    assert "".join(increments(words, [1, 2], skip_special_tokens=False)) == "<|begin|> <|user|>"
    assert "".join(increments(words, [1, 2], **options)) == "<|begin|><|user|>"
