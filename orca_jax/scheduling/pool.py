"""The paper's request pool: every request from its arrival to its end, in order of arrival."""

from collections import OrderedDict
from collections.abc import Iterator

from orca_jax.core.errors import EngineError, RequestError
from orca_jax.core.request import Request
from orca_jax.core.sequence import Sequence


class RequestPool:
    """The live sequences, those that wait and those that run, in one order: that of arrival.

    Adding, removing and looking up take constant time however many wait.
    """

    def __init__(self) -> None:
        # An OrderedDict, not a dict: a dict whose oldest entries are gone is walked from its first, empty place.
        self._sequences: OrderedDict[Sequence, None] = OrderedDict()
        self._by_request: dict[str, dict[int, Sequence]] = {}

    def __len__(self) -> int:
        return len(self._sequences)

    @property
    def num_requests(self) -> int:
        return len(self._by_request)

    def by_arrival(self) -> Iterator[Sequence]:
        """Oldest first. The pool must not change while this is walked."""
        return iter(self._sequences)

    def add(self, request: Request) -> None:
        """One sequence for each of the request's `n`. Raises RequestError where the id is in use."""
        if request.request_id in self._by_request:
            raise RequestError(
                f"request id {request.request_id!r} is in use by a request that has not ended", "request_id"
            )
        sequences = {index: Sequence(request, index) for index in range(request.params.n)}
        self._by_request[request.request_id] = sequences
        self._sequences.update(dict.fromkeys(sequences.values()))

    def of_request(self, request_id: str) -> list[Sequence]:
        """The request's sequences that have not ended; empty where it is unknown or has ended."""
        return list(self._by_request.get(request_id, {}).values())

    def remove(self, sequence: Sequence) -> None:
        request_id, index = sequence.key
        del self._sequences[sequence]
        siblings = self._by_request[request_id]
        del siblings[index]
        if not siblings:
            del self._by_request[request_id]

    def check(self) -> None:
        """Raise EngineError unless both views hold the same live sequences."""
        by_request = {sequence for siblings in self._by_request.values() for sequence in siblings.values()}
        if by_request != set(self._sequences):
            raise EngineError(f"{len(self._sequences)} sequences in order, {len(by_request)} by request")
        ended = [sequence.key for sequence in self._sequences if sequence.finished]
        if ended:
            raise EngineError(f"{ended[0]} has ended, but is still in the pool")
