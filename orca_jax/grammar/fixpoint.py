"""What holds because other things hold: the least such set, found by looking at every part of every condition once."""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

K = TypeVar("K", bound=Hashable)


def least(conditions: Mapping[K, tuple[int, Sequence[K]]]) -> set[K]:
    """The keys that hold. A condition is a number and parts: it holds once so many of the parts do, at 0 always.

    Counts what each one still waits for, so the time is linear in all parts together, however they depend on each
    other. A part that is no key never holds; one that is listed twice counts twice.
    """
    users: dict[K, list[K]] = defaultdict(list)
    unmet: dict[K, int] = {}
    for key, (enough, parts) in conditions.items():
        unmet[key] = enough
        for part in parts:
            users[part].append(key)
    fresh = [key for key, count in unmet.items() if count <= 0]
    found = set(fresh)
    while fresh:
        for user in users[fresh.pop()]:
            unmet[user] -= 1
            if unmet[user] == 0:
                found.add(user)
                fresh.append(user)
    return found
