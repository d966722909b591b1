"""Nothing is ignored silently: a name that is not supported, or not known at all, is refused by that name."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from orca_jax.core.errors import RequestError, nearest

C = TypeVar("C", bound=type)
MakeError = Callable[[str, str], Exception]


def check_names(
    where: str,
    given: Iterable[str],
    known: Iterable[str],
    unsupported: Mapping[str, str],
    error: MakeError = RequestError,
) -> None:
    """Raise `error(message, name)` for the first name of `given` that is not in `known`.

    `unsupported` maps names that users of other engines know to the reason why they are not here (may be empty text).
    An unknown name is answered with the known one that comes closest.
    """
    known = tuple(known)
    for name in given:
        if name in known:
            continue
        if name in unsupported:
            reason = f": {unsupported[name]}" if unsupported[name] else ""
            raise error(f"{name} is not supported by {where}{reason}", name)
        shown = name if len(name) <= 80 else name[:77] + "..."
        raise error(f"{shown!r} is not a parameter of {where}{nearest(shown, known)}", name)


def refuses_unknown_names(unsupported: Mapping[str, str], error: MakeError = RequestError) -> Callable[[C], C]:
    """Class decorator for dataclasses: keyword arguments of `__init__` go through `check_names` first.

    None for a name of `unsupported` asks for nothing, and is what callers that pass on their own defaults send.
    """

    def wrap(cls: C) -> C:
        init = cls.__init__  # type: ignore[misc]
        known = tuple(f.name for f in dataclasses.fields(cls) if f.init)

        @functools.wraps(init)
        def checked_init(self: object, *args: object, **kwargs: object) -> None:
            asked = {name: value for name, value in kwargs.items() if value is not None or name not in unsupported}
            check_names(cls.__name__, asked, known, unsupported, error)
            init(self, *args, **asked)

        cls.__init__ = checked_init  # type: ignore[misc]
        return cls

    return wrap
