"""Tokens to text as they come: never half a character, and at the end exactly what decoding all at once gives."""

import codecs
from collections.abc import Sequence
from typing import Protocol

from orca_jax.text.pieces import Pieces
from orca_jax.text.tokenizer import Tokenizer

CONTEXT = 8  # visible tokens of the prompt that the answer's first characters may depend on
PATIENCE = 8  # tokens that may wait for the rest of a character before U+FFFD is taken for the answer


class Detokenizer(Protocol):
    """The text of one growing answer."""

    def push(self, token: int) -> str:
        """The text that `token` makes certain; empty while it ends inside a character."""
        ...

    def finish(self) -> str:
        """What is left when no more tokens come: U+FFFD if the answer ends inside a character."""
        ...


def detokenizer_for(
    tokenizer: Tokenizer,
    prompt: Sequence[int] = (),
    skip_special_tokens: bool = True,
    spaces_between_special_tokens: bool = True,
) -> Detokenizer:
    """A detokenizer for an answer to `prompt` (token ids), whose own text is not repeated.

    The prompt decides whether the answer's first space is one (sentencepiece drops a leading space of the whole text)
    and may end inside a character that the answer completes.
    """
    hidden = tokenizer.special_ids if skip_special_tokens else frozenset()
    if tokenizer.pieces is not None:
        detokenizer: Detokenizer = BytesDetokenizer(tokenizer.pieces, hidden)
    else:
        loose = frozenset() if spaces_between_special_tokens else tokenizer.added_ids
        detokenizer = WindowDetokenizer(tokenizer, hidden, loose)
    for token in _tail(prompt, hidden):
        detokenizer.push(token)
    return detokenizer


def _tail(prompt: Sequence[int], hidden: frozenset[int]) -> list[int]:
    tail: list[int] = []
    for token in reversed(prompt):
        if len(tail) == CONTEXT:
            break
        if token not in hidden:
            tail.append(token)
    return tail[::-1]


class BytesDetokenizer:
    """For decoders that string bytes together: each token's bytes go through an incremental UTF-8 decoder.

    Constant work per token, no second look at earlier tokens. Where byte-fallback tokens spell invalid UTF-8, only the
    invalid bytes become U+FFFD; the library would turn the whole run of byte tokens into it, good characters included,
    which a stream cannot do to text that it has already shown.
    """

    def __init__(self, pieces: Pieces, hidden: frozenset[int]):
        self._pieces = pieces
        self._hidden = hidden
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._inside = False  # a character has begun and not ended
        self._leading_spaces = pieces.leading_spaces

    def push(self, token: int) -> str:
        if token in self._hidden:
            return ""
        text = None if self._inside else self._pieces.text(token)
        if text is None:
            text = self._decoder.decode(self._pieces[token])
            self._inside = self._decoder.getstate()[0] != b""
        return self._strip(text) if self._leading_spaces else text

    def finish(self) -> str:
        return self._strip(self._decoder.decode(b"", True))

    def _strip(self, text: str) -> str:
        while self._leading_spaces and text:
            if text[0] != " ":
                self._leading_spaces = 0
                break
            text = text[1:]
            self._leading_spaces -= 1
        return text


class WindowDetokenizer:
    """For any other decoder: decode the tokens not yet shown together with those shown last, and cut off the latter.

    The window moves on whenever its text ends in a whole character, so the work per token does not grow.
    """

    def __init__(self, tokenizer: Tokenizer, hidden: frozenset[int], loose: frozenset[int]):
        self._tokenizer = tokenizer
        self._hidden = hidden
        self._loose = loose  # added tokens that follow each other without the decoder's space
        self._shown: list[int] = []
        self._waiting: list[int] = []

    def push(self, token: int) -> str:
        if token in self._hidden:
            return ""
        after_loose = not self._waiting and bool(self._shown) and self._shown[-1] in self._loose
        self._waiting.append(token)
        if after_loose and token in self._loose:
            return self._show(self._tokenizer.backend.id_to_token(token) or "")
        text = self._new_text(self._waiting)
        if not text.endswith("\ufffd"):
            return self._show(text)
        return self._show_most(text) if len(self._waiting) >= PATIENCE else ""

    def finish(self) -> str:
        return self._show(self._new_text(self._waiting)) if self._waiting else ""

    def _new_text(self, tokens: list[int]) -> str:
        before = self._tokenizer.decode(self._shown, False)
        return self._tokenizer.decode(self._shown + tokens, False)[len(before) :]

    def _show_most(self, text: str) -> str:
        """Show what does not depend on the last character, which may be unfinished and is at most three tokens long.

        A cut through a character shows itself: both halves decode to more characters than the whole.
        """
        for kept in (3, 2, 1):
            head, tail = self._waiting[:-kept], self._waiting[-kept:]
            first = self._new_text(head)
            if first + self._tokenizer.decode(tail, False) == text:
                self._shown, self._waiting = head, tail
                return first
        return self._show(text)

    def _show(self, text: str) -> str:
        self._shown, self._waiting = self._waiting, []
        return text
