"""What the routes tell of each call to whoever traces them, and nobody doing so."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from orca_jax.core.outputs import RequestOutput
from orca_jax.core.request import Request


class Tracer(Protocol):
    """What the routes tell of a call. Called within the event loop; must be quick."""

    def begin(self, requests: Sequence[Request], headers: Mapping[str, str]) -> None: ...
    def see(self, output: RequestOutput) -> None: ...
    def drop(self, requests: Sequence[Request]) -> None:
        """The call has ended; what has not finished by then never will."""

    def close(self) -> None: ...


class NoTraces:
    """Where nobody wants any."""

    def begin(self, requests: Sequence[Request], headers: Mapping[str, str]) -> None:
        return

    def see(self, output: RequestOutput) -> None:
        return

    def drop(self, requests: Sequence[Request]) -> None:
        return

    def close(self) -> None:
        return
