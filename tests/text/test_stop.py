"""Stop strings against the obvious oracle: look through the whole text with str.find."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_jax.text.stop import StopStrings


def run(strings, chunks, include=False):
    """Feed chunks until a match; returns the shown pieces (the tail included) and the match."""
    matcher = StopStrings(strings, include).matcher()
    shown = []
    for chunk in chunks:
        text, match = matcher.push(chunk)
        shown.append(text)
        if match is not None:
            return shown, match
    return [*shown, matcher.finish()], None


def oracle(strings, text, include=False):
    found = [(text.find(s) + len(s), -len(s), s) for s in strings if s in text]
    if not found:
        return text, None
    end, minus_length, match = min(found)
    return text[: end if include else end + minus_length], match


SMALL = st.text("ab", min_size=1, max_size=5)


@given(st.lists(SMALL, min_size=1, max_size=4), st.lists(st.text("abc", max_size=4), max_size=12), st.booleans())
def test_any_cut_of_the_text_gives_what_find_gives(strings, chunks, include):
    shown, match = run(strings, chunks, include)
    assert ("".join(shown), match) == oracle(strings, "".join(chunks), include)


@given(st.lists(SMALL, min_size=1, max_size=4), st.lists(st.text("abc", max_size=4), max_size=12))
def test_nothing_shown_is_ever_taken_back_and_no_more_is_held_than_needed(strings, chunks):
    matcher = StopStrings(strings).matcher()
    whole = shown = ""
    for chunk in chunks:
        text, match = matcher.push(chunk)
        whole, shown = whole + chunk, shown + text
        if match is not None:
            return
        held = whole[len(shown) :]
        assert whole == shown + held
        longest = max((k for s in strings for k in range(len(s)) if whole.endswith(s[:k])), default=0)
        assert len(held) == longest


def test_a_partial_match_is_released_when_it_fails():
    assert run(["</s>"], ["a<", "/", "t", ">"]) == (["a", "", "</t", ">", ""], None)


def test_a_held_tail_is_released_at_the_end():
    assert run(["STOP"], ["go STO"]) == (["go ", "STO"], None)


def test_the_first_to_be_complete_wins_and_the_longest_of_those():
    assert run(["abcdef", "cd"], ["ab", "c", "def"]) == (["", "", "ab"], "cd")
    assert run(["d", "bcd", "cd"], ["abcde"]) == (["a"], "bcd")


def test_overlapping_repeats():
    assert run(["aab"], ["aa", "a", "ab"]) == (["", "a", "a"], "aab")


@pytest.mark.parametrize("chunks", [["xENDy"], ["xE", "N", "Dy"]])
def test_included_stop_strings_are_not_held_back(chunks):
    shown, match = run(["END"], chunks, include=True)
    assert "".join(shown) == "xEND" and match == "END"
    assert shown[0] != "x"


def test_an_unarmed_matcher_passes_over_what_is_complete_but_not_over_what_straddles():
    matcher = StopStrings(["aa"]).matcher()
    assert matcher.push("aab", armed=False) == ("aab", None)
    assert matcher.push("a", armed=False) == ("", None)
    assert matcher.push("a") == ("", "aa")
