"""Whole answers as JSON: small ones at once, large ones beside the event loop, which everybody else waits for."""

from collections.abc import Sequence

from orca_jax.core.outputs import RequestOutput
from orca_jax.core.request import Request
from orca_jax.protocol.call import scored_entries
from orca_jax.protocol.json_text import compact, compact_answer
from orca_jax.server.service import Admitted, Service

AT_ONCE = 2048  # entries: about two milliseconds


async def whole_answer(service: Service, admitted: Admitted, outputs: Sequence[RequestOutput]) -> bytes:
    """The body of a call's answer. Raises EngineError where the engine has ended a request with an error."""

    def build(large: bool) -> bytes:
        answer = admitted.call.answer(admitted.requests, outputs, admitted.envelope, service.door)
        return compact_answer(answer) if large else compact(answer)

    entries = sum(map(entries_of, admitted.requests, outputs))
    return await service.crews.answers.do(build, True) if entries > AT_ONCE else build(False)


def entries_of(request: Request, output: RequestOutput) -> int:
    """About how many tokens, and likely tokens beside them, the answer tells of."""
    made = sum(len(answer.token_ids) for answer in output.outputs)
    return made * (1 + (request.params.logprobs or 0)) + scored_entries(request)
