"""Text from users and models on its way to a terminal or a picture: one line, nothing that moves a cursor."""

import unicodedata


def printable(text: str) -> str:
    """`text` with every control character but newline and tab made visible, so that no answer can drive a terminal."""
    return "".join(char if char in "\n\t" or not _controls(char) else _escaped(char) for char in text)


def one_line(text: str, width: int) -> str:
    """`text` on one line of at most `width` columns, blanks run together, the end cut where it is too long."""
    flat = printable(" ".join(text.split()))
    if columns(flat) <= width:
        return flat
    kept = ""
    for char in flat:
        if columns(kept + char) >= width:
            break
        kept += char
    return kept + "…"


def padded(text: str, width: int) -> str:
    return text + " " * (width - columns(text))


def columns(text: str) -> int:
    """How many terminal columns `text` takes: East Asian wide characters take two, combining marks none."""
    return sum(_columns_of(char) for char in text)


def _columns_of(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _controls(char: str) -> bool:
    # Cc: escape, bell, backspace; Cf: the marks that reverse the direction of a line
    return unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp")


def _escaped(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
