"""What holds for some names because it holds for others: the least set, found without going through all of them again."""

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Mapping


def least(uses: Mapping[str, Collection[str]], holds: Callable[[str, set[str]], bool]) -> set[str]:
    """The names for which `holds(name, found)` follows from the names found before; `uses` says which those may be.

    A name is looked at again only when something that it uses has been found.
    """
    users: dict[str, list[str]] = defaultdict(list)
    for name, used in uses.items():
        for other in used:
            users[other].append(name)
    found: set[str] = set()
    queue = deque(uses)
    while queue:
        name = queue.popleft()
        if name not in found and holds(name, found):
            found.add(name)
            queue.extend(user for user in users[name] if user not in found)
    return found
