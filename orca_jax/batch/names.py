"""Which custom ids have been seen, and where: the second use of one is an error that names the first."""

import hashlib


class Names:
    """Remembers names by 16 bytes each, whatever their length."""

    def __init__(self) -> None:
        self._first: dict[bytes, int] = {}

    def claim(self, name: str, number: int) -> int:
        """The line that has the name: `number` itself, unless another one was first."""
        return self._first.setdefault(hashlib.blake2b(name.encode(), digest_size=16).digest(), number)
