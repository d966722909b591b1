"""The bytes of each token, where the tokenizer's decoder merely strings bytes together (as nearly all do today)."""

import re
from collections.abc import Callable, Mapping
from typing import Any

BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins: each printable Latin-1 byte is itself, the others follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(rest)}


class Pieces:
    """`pieces[token]` are the token's UTF-8 bytes, perhaps part of a character; empty for an id without a token.

    A text is the concatenation of its tokens' bytes, less up to `leading_spaces` spaces at its very beginning.
    """

    def __init__(
        self, to_bytes: Callable[[str], bytes], token_of: Callable[[int], str | None], leading_spaces: int = 0
    ):
        self.leading_spaces = leading_spaces
        self._to_bytes = to_bytes
        self._token_of = token_of
        self._known: dict[int, bytes] = {}  # as large as the vocabulary at most, filled as tokens turn up
        self._texts: dict[int, str | None] = {}

    def __getitem__(self, token: int) -> bytes:
        data = self._known.get(token)
        if data is None:
            text = self._token_of(token)
            data = b"" if text is None else self._to_bytes(text)
            self._known[token] = data
        return data

    def text(self, token: int) -> str | None:
        """The token's text where its bytes are whole characters, as they nearly always are; else None."""
        try:
            return self._texts[token]
        except KeyError:
            text = self[token].decode(errors="replace")
            found = None if "\ufffd" in text else text
            self._texts[token] = found
            return found


def pieces_of(decoder: Mapping[str, Any] | None, token_of: Callable[[int], str | None]) -> Pieces | None:
    """Read a tokenizer.json's `decoder`; None if it does more than string bytes together."""
    steps = _steps(decoder)
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        return Pieces(_byte_level, token_of)
    if kinds[:3] == ["Replace", "ByteFallback", "Fuse"] and kinds[3:] in ([], ["Strip"]):
        pattern = steps[0].get("pattern")
        old = pattern.get("String") if isinstance(pattern, dict) else None
        new = steps[0].get("content")
        strip: Mapping[str, Any] = steps[3] if len(steps) == 4 else {"content": " ", "start": 0, "stop": 0}
        if isinstance(old, str) and isinstance(new, str) and strip.get("content") == " " and strip.get("stop") == 0:
            return Pieces(_byte_fallback(old, new), token_of, int(strip.get("start", 0)))
    return None


def _steps(decoder: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if decoder is None:
        return []
    if decoder.get("type") == "Sequence":
        return [step for inner in decoder.get("decoders", []) for step in _steps(inner)]
    return [decoder]


_ALPHABET = byte_alphabet()


def _byte_level(text: str) -> bytes:
    data = [_ALPHABET.get(character, -1) for character in text]
    return text.encode() if -1 in data else bytes(data)  # a token outside the alphabet stands for itself


def _byte_fallback(old: str, new: str) -> Callable[[str], bytes]:
    def to_bytes(text: str) -> bytes:
        text = text.replace(old, new)
        return bytes([int(text[3:5], 16)]) if BYTE_TOKEN.fullmatch(text) else text.encode()

    return to_bytes
