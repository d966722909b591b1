"""Checks of single values that come from outside: each returns the plain Python value or raises `RequestError`.

`True` is no integer and NaN no number here; numpy's scalars are accepted and converted. The echo of a bad value is
short, whatever was sent.
"""

import math
import numbers
from collections.abc import Iterable, Mapping

from orca_jax.core.errors import RequestError

MAX_INT = 2**31 - 1


def shown(value: object) -> str:
    """`repr(value)` cut to at most 60 characters, without ever building a long one."""
    if isinstance(value, int) and value.bit_length() > 160:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, str | bytes):
        return repr(value) if len(value) <= 58 else repr(value[:54]) + "..."
    if isinstance(value, list | tuple | dict | set | frozenset):
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise RequestError(f"{name} must be True or False, got {shown(value)}.", name)
    return value


def integer(name: str, value: object) -> int:
    """An integer of any size; `bounded` adds the range."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise RequestError(f"{name} must be an integer, got {shown(value)}.", name)
    return int(value)


def bounded(name: str, value: object, low: int, high: int = MAX_INT) -> int:
    number = integer(name, value)
    if number < low:
        least = "non-negative" if low == 0 else f"at least {low}"
        raise RequestError(f"{name} must be {least}, got {shown(number)}.", name)
    if number > high:
        raise RequestError(f"{name} must be at most {high}, got {shown(number)}.", name)
    return number


def finite(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise RequestError(f"{name} must be a number, got {shown(value)}.", name)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RequestError(f"{name} must be a finite number, got {shown(value)}.", name)
    return number


def within(name: str, value: object, low: float, high: float) -> float:
    """A finite number in the closed range from `low` to `high`."""
    number = finite(name, value)
    if not low <= number <= high:
        raise RequestError(f"{name} must be in [{low:g}, {high:g}], got {number:g}.", name)
    return number


def listed(name: str, value: object, most: int) -> tuple[object, ...]:
    """A list, tuple or other collection (not text, not a mapping) of at most `most` items."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise RequestError(f"{name} must be a list, got {shown(value)}.", name)
    items: list[object] = []
    for item in value:
        if len(items) == most:
            raise RequestError(f"{name} must have at most {most} entries, got more.", name)
        items.append(item)
    return tuple(items)


def text(name: str, value: object) -> str:
    """Text that UTF-8 can express."""
    if not isinstance(value, str):
        raise RequestError(f"{name} must be a string, got {shown(value)}.", name)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{name} is not valid text: it holds an unpaired surrogate at {error.start}.", name
        ) from error
    return value


def strings(name: str, value: object, most: int, longest: int) -> tuple[str, ...]:
    """Distinct non-empty strings, at most `most` of at most `longest` characters each; one alone may be given bare."""
    if not isinstance(value, str | Iterable):
        raise RequestError(f"{name} must be a string or a list of them, got {shown(value)}.", name)
    items = listed(name, [value] if isinstance(value, str) else value, most)
    for item in items:
        if not isinstance(item, str):
            raise RequestError(f"{name} must hold strings, got {shown(item)}.", name)
        if not item:
            raise RequestError(f"{name} cannot contain an empty string.", name)
        if len(item) > longest:
            raise RequestError(f"{name} holds a string of {len(item)} characters; at most {longest} are allowed.", name)
        text(name, item)
    return tuple(dict.fromkeys(str(item) for item in items))


def token_ids(name: str, value: object, most: int) -> tuple[int, ...]:
    """Distinct token ids in the order given; whether they are in the vocabulary is for the door to say."""
    return tuple(dict.fromkeys(entry(name, "entry", item) for item in listed(name, value, most)))


def entry(name: str, what: str, value: object) -> int:
    """A token id that is an "entry" or a "key" of the parameter `name`."""
    try:
        return bounded(f"each {what} of {name}", value, 0)
    except RequestError as error:
        raise RequestError(str(error), name) from error


def in_vocabulary(name: str, ids: Iterable[int], vocab_size: int) -> None:
    for token in ids:
        if not 0 <= token < vocab_size:
            raise RequestError(
                f"{name} holds token id {shown(token)}, outside the vocabulary of {vocab_size} "
                f"(0 to {vocab_size - 1}).",
                name,
            )
