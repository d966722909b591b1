"""JSON as it comes from outside: strict where Python's reader is not, and bounded."""

import json
from collections.abc import Iterator, Mapping
from json.scanner import py_make_scanner  # type: ignore[attr-defined]  # typeshed knows only the fast one
from typing import Any

from orca_jax.core.checks import shown
from orca_jax.core.errors import RequestError

MAX_DEPTH = 100
LONG = 2**17  # characters: the fast scanner lets no other thread run, and takes 5 ms for so many
AT_ONCE = 4096
LARGE_ENTRIES = 64  # each a token with the most likely ones beside it, some kilobytes


def read_json(data: bytes | str) -> Any:
    """The value of a JSON text. Raises RequestError for what RFC 8259 does not allow, repeated names included."""
    try:
        text = data if isinstance(data, str) else data.decode()
        value = _decoder(len(text) > LONG).decode(text)
    except UnicodeDecodeError as error:
        raise RequestError(f"The body is not UTF-8: byte {error.start} is invalid.") from error
    except json.JSONDecodeError as error:
        raise RequestError(f"The body is not valid JSON: {error}.") from error
    except RecursionError as error:
        raise RequestError(f"The body is nested deeper than {MAX_DEPTH} levels.") from error
    except ValueError as error:  # an integer of thousands of digits
        if isinstance(error, RequestError):
            raise
        raise RequestError("The body holds a number with too many digits.") from error
    check_depth(value)
    return value


def compact(value: Any) -> bytes:
    """A JSON text without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def compact_fields(value: Mapping[str, Any]) -> bytes:
    """As `compact`, for an object of which some fields are long lists: other threads can run meanwhile."""
    parts = []
    for name, item in value.items():
        pieces = [item]
        if isinstance(item, list) and len(item) > AT_ONCE:
            pieces = [item[start : start + AT_ONCE] for start in range(0, len(item), AT_ONCE)]
        texts = [compact(piece) for piece in pieces]
        if len(texts) > 1:
            texts = [b"[" + b",".join(text[1:-1] for text in texts) + b"]"]
        parts.append(compact(name) + b":" + texts[0])
    return b"{" + b",".join(parts) + b"}"


def compact_answer(answer: Mapping[str, Any]) -> bytes:
    """As `compact`, for a large answer: its choices, and the long lists in them, are written piece by piece."""
    fields = dict(answer)
    texts = [b'{"choices":[']
    for number, choice in enumerate(fields.pop("choices")):
        texts += [b","] if number else []
        texts += _pieces(choice, 2)
    texts.append(b"]")
    for name, item in fields.items():
        texts += [b",", compact(name), b":", *_pieces(item, 1)]
    texts.append(b"}")
    return b"".join(texts)


def _pieces(value: Any, depth: int) -> Iterator[bytes]:
    """An object's fields one by one, down to `depth`, and of a list so few entries at once that nobody waits for them."""
    if depth and isinstance(value, dict):
        for number, (name, item) in enumerate(value.items()):
            yield (b"," if number else b"{") + compact(name) + b":"
            yield from _pieces(item, depth - 1)
        yield b"}" if value else b"{}"
    elif isinstance(value, list) and len(value) > LARGE_ENTRIES:
        for cut in range(0, len(value), LARGE_ENTRIES):
            yield (b"," if cut else b"[") + compact(value[cut : cut + LARGE_ENTRIES])[1:-1]
        yield b"]"
    else:
        yield compact(value)


def _decoder(patient: bool) -> json.JSONDecoder:
    """A strict reader; a patient one is written in Python, several times slower, and lets other threads run."""
    decoder = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_once)
    if patient:
        decoder.scan_once = py_make_scanner(decoder)  # type: ignore[attr-defined]
    return decoder


def check_depth(value: object, most: int = MAX_DEPTH) -> None:
    """Refuse lists and objects within each other beyond `most` levels."""
    level = [value]
    for _ in range(most):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise RequestError(f"The body is nested deeper than {most} levels.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for start in range(0, len(pairs), AT_ONCE):
        found.update(pairs[start : start + AT_ONCE])
    if len(found) < len(pairs):
        seen: set[str] = set()
        again = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise RequestError(f"The body names {shown(again)} more than once in one object.")
    return found


def _no_constant(name: str) -> float:
    raise RequestError(f"The body is not valid JSON: {name} is not a number there.")
