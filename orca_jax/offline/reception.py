"""Numbers the requests of one engine and takes all prompts of a call through the door before the engine sees the first."""

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from orca_jax.core.clock import Clock
from orca_jax.core.errors import RequestError
from orca_jax.core.request import Request
from orca_jax.core.sampling_params import RequestOutputKind, SamplingParams
from orca_jax.engine.door import Door, Prompt

T = TypeVar("T")
R = TypeVar("R")


class Reception:
    """Makes requests. Their numbers count up from 0 and are their ids; a call that is refused uses none up."""

    def __init__(self, door: Door, clock: Clock):
        self._door = door
        self._clock = clock
        self._lock = threading.Lock()
        self._arrived = 0

    def requests(
        self,
        prompts: Sequence[Prompt],
        params: Sequence[SamplingParams],
        kind: RequestOutputKind | None = None,
        default_max_tokens: int | None = None,
        add_special_tokens: bool = True,
    ) -> list[Request]:
        """A request for each prompt, or RequestError, which says which prompt is to blame if there are several.

        `kind` overrides the parameters' own `output_kind`.
        """

        def make(number: int, prompt: Prompt) -> Request:
            one = params[number]
            return self._door.make(
                prompt,
                one if kind is None else dataclasses.replace(one, output_kind=kind),
                request_id=str(self._arrived + number),
                arrival=self._arrived + number,
                arrival_time=self._clock.now(),
                default_max_tokens=default_max_tokens,
                add_special_tokens=add_special_tokens,
            )

        with self._lock:
            requests = blaming(prompts, "prompt", make)
            self._arrived += len(requests)
            return requests


def blaming(items: Sequence[T], what: str, make: Callable[[int, T], R]) -> list[R]:
    """`make` of each item; where one of several is refused, the error says which `what` it is."""
    made = []
    for number, item in enumerate(items):
        try:
            made.append(make(number, item))
        except RequestError as error:
            if len(items) == 1:
                raise
            message = f"{what} {number} of {len(items)} (counted from 0): {error}"
            raise type(error)(message, error.parameter) from error
    return made
