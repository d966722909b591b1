"""A bad word is forbidden at the start of a text and after a space."""

import pytest

from orca_jax.core.errors import RequestError
from orca_jax.text.bad_words import bad_word_ids


def test_both_forms_where_the_space_is_part_of_the_token(byte_fallback):
    bare, spaced = [byte_fallback.backend.token_to_id(text) for text in ("th", "▁the")]
    # Sentencepiece puts the space in front of either form, so there is only one.
    assert bad_word_ids(byte_fallback, ["the"]) == ((spaced,),) and bare != spaced


def test_the_form_after_a_space_counts_where_it_is_another_token_of_the_same_length(byte_level):
    forms = {word: (byte_level.encode(word), byte_level.encode(" " + word)) for word in ("hello", "brown", "é", "q")}
    same = [word for word, (bare, spaced) in forms.items() if len(bare) == len(spaced)]
    assert same and len(same) < len(forms), "the test needs words of both kinds"
    for word, (bare, spaced) in forms.items():
        expected = (tuple(bare), tuple(spaced)) if word in same else (tuple(bare),)
        assert bad_word_ids(byte_level, [word]) == bad_word_ids(byte_level, [" " + word, word]) == expected


def test_a_word_without_tokens_is_refused(byte_level):
    with pytest.raises(RequestError, match="bad_words holds '  '") as caught:
        bad_word_ids(byte_level, ["  "])
    assert caught.value.parameter == "bad_words"


def test_a_word_of_too_many_tokens_is_refused_with_the_bound(byte_level):
    with pytest.raises(RequestError, match="at most 16"):
        bad_word_ids(byte_level, ["zqxj" * 30])
