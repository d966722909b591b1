"""What the engine needs from a compiled grammar, whoever compiles it."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

Masks = Mapping[int, np.ndarray]
"""For some rows of a plan, by index, the tokens that may be chosen: `i32[ceil(V / 32)]`, bit t % 32 of word t // 32."""


class Matcher(Protocol):
    """How far one answer has got in its grammar. Whatever fails in it is a `GrammarError`."""

    def fill(self, line: np.ndarray) -> None:
        """Write to `line`, `i32[ceil(V / 32)]`, which tokens may come next. The model's ends only where it may end."""

    def accept(self, token: int) -> None:
        """Go on by a token that was chosen."""

    @property
    def finished(self) -> bool:
        """Whether the answer is complete and nothing can be added to it."""
        ...


class Grammar(Protocol):
    """A form that answers can be held to. May be shared by threads and requests."""

    @property
    def words(self) -> int:
        """Length of a mask's line, `ceil(V / 32)`."""
        ...

    def matcher(self, eos_ids: tuple[int, ...]) -> Matcher:
        """A matcher at the beginning. `eos_ids` are the ids that may end this answer; no other ever does."""
        ...
