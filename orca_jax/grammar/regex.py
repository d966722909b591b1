"""What can be seen in a regular expression before it is compiled: how far its counts multiply, repetitions of nothing new.

Matching is linear here, whatever the expression. These bounds are for the automaton, which grows with what is counted.
"""

import re
from dataclasses import dataclass

from orca_jax.core.errors import RequestError
from orca_jax.core.structured_outputs import NAME

MAX_REPEAT = 2**14
MAX_NESTING = 64
UNBOUNDED = -1

QUANTIFIER = re.compile(r"(?:[*+?]|\{\s*(?:(\d+)\s*)?(?:(,)\s*(?:(\d+)\s*)?)?\})\??")
CLASS = re.compile(r"\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]", re.DOTALL)


@dataclass(slots=True)
class Piece:
    """The part of a group that has been read: its alternatives' size in copies, and what its last element is.

    `size` is how many characters, with counts multiplied out, the automaton must tell apart. `lone` says that the
    alternative so far is one element and nothing else, `loop` that this element repeats without bound.
    """

    size: int = 0
    lone: bool = True
    count: int = 0
    loop: bool = False
    any_loop: bool = False


def check_regex(pattern: str, name: str) -> None:
    """Raise RequestError where counts multiply beyond bounds, or a repetition repeats what is one already, as (a+)+."""
    stack = [Piece()]
    last: Piece | None = None  # the element before the place we are at
    position = 0
    while position < len(pattern):
        quantifier = QUANTIFIER.match(pattern, position) if last is not None else None
        if quantifier is not None and last is not None:
            _repeat(stack[-1], last, quantifier, name)
            last, position = None, quantifier.end()
            continue
        position, last = _element(pattern, position, stack, name)


def _element(pattern: str, position: int, stack: list[Piece], name: str) -> tuple[int, Piece | None]:
    """Read one element, a group's opening or its end. Returns the next position, and the element if it is whole."""
    character = pattern[position]
    if character == "(":
        if len(stack) > MAX_NESTING:
            raise RequestError(f"{name} has groups nested more than {MAX_NESTING} deep.", NAME)
        stack.append(Piece())
        opening = re.compile(r"\((?:\?(?:P?<\w+>|[a-zA-Z-]*:))?").match(pattern, position)
        return (position + 1 if opening is None else opening.end()), None
    if character == ")" and len(stack) > 1:
        group = stack.pop()
        whole = Piece(group.size, loop=group.any_loop or (group.loop and group.lone))
        _append(stack[-1], whole)
        return position + 1, whole
    if character == "|":
        piece = stack[-1]
        piece.any_loop = piece.any_loop or (piece.loop and piece.lone)
        piece.lone, piece.loop, piece.count = True, False, 0
        return position + 1, None
    if character == "[":
        found = CLASS.match(pattern, position)
        end = len(pattern) if found is None else found.end()  # without an end it is refused later, for that
    else:
        end = position + 2 if character == "\\" else position + 1
    element = Piece(1)
    if character not in "^$":
        _append(stack[-1], element)
        return end, element
    return end, None


def _append(piece: Piece, element: Piece) -> None:
    piece.size += element.size
    piece.count += 1
    piece.lone = piece.count == 1
    piece.loop = element.loop


def _repeat(piece: Piece, element: Piece, quantifier: re.Match[str], name: str) -> None:
    """Apply a quantifier to the last element of `piece`."""
    low, high = _bounds(quantifier)
    if high == UNBOUNDED and element.loop:
        raise RequestError(
            f"{name} repeats a repetition, as (a+)+ does, which says no more than the inner one: drop one of the two.",
            NAME,
        )
    copies = max(low, high, 1)
    grown = element.size * copies
    if copies > MAX_REPEAT or grown > MAX_REPEAT:
        raise RequestError(f"{name} counts up to {max(copies, grown)}; at most {MAX_REPEAT} are allowed.", NAME)
    piece.size += grown - element.size
    piece.loop = high == UNBOUNDED or element.loop


def _bounds(quantifier: re.Match[str]) -> tuple[int, int]:
    text = quantifier[0]
    if text[0] in "*+?":
        return (1 if text[0] == "+" else 0), (1 if text[0] == "?" else UNBOUNDED)
    low = int((quantifier[1] or "0")[:12])
    if quantifier[2] is None:
        return low, low
    return low, UNBOUNDED if quantifier[3] is None else int(quantifier[3][:12])
