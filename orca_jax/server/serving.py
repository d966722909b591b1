"""One call from its body to its answer, whole or streamed."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from orca_jax.core.errors import RequestError
from orca_jax.core.outputs import RequestOutput
from orca_jax.protocol.call import raise_error
from orca_jax.protocol.errors import ApiError, api_error, error_object
from orca_jax.server.event_stream import DONE, EventStream, event, until_disconnected
from orca_jax.server.http import JsonAnswer, read_body
from orca_jax.server.service import Admitted, Service, unavailable
from orca_jax.server.whole import whole_answer

CLIENT_GONE = 499  # nobody reads it; logs may


async def serve_call(service: Service, request: HttpRequest, url: str) -> Response:
    """Answer a call at `url`. Raises RequestError, ApiError and EngineError, which the app turns into answers."""
    service.check_open()
    async with service.in_flight():
        admitted = await service.prepare(url, await read_body(request, service.config), request.headers)
        headers = {"x-request-id": admitted.envelope.id}
        if admitted.call.stream:
            return EventStream(_events(service, admitted), headers, lambda: service.dismiss(admitted))
        return JsonAnswer(await _answer_unless_gone(service, admitted, request), headers=headers)


async def _answer_unless_gone(service: Service, admitted: Admitted, request: HttpRequest) -> object:
    """The answer, unless the client leaves first: then its requests end at once."""
    working = asyncio.ensure_future(_answer(service, admitted))
    leaving = asyncio.ensure_future(until_disconnected(request.receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(CLIENT_GONE, "The client left before its answer was ready.")
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        with suppress(Exception):
            await asyncio.gather(working, leaving, return_exceptions=True)


async def _answer(service: Service, admitted: Admitted) -> object:
    try:
        async with asyncio.timeout(service.config.request_timeout):
            outputs = await service.engine.generate(admitted.requests)
        for output in outputs:
            service.tracer.see(output)
            check_ended(service, output)
    except RequestError as error:
        raise admitted.call.by_its_names(error) from error
    except TimeoutError as error:
        raise timed_out(service) from error
    finally:
        service.dismiss(admitted)
    return await whole_answer(service, admitted, outputs)


async def _events(service: Service, admitted: Admitted) -> AsyncGenerator[bytes, None]:
    """The stream of a call. Whatever goes wrong in it is its last event but one: the status has been sent already."""
    async with service.in_flight():
        try:
            async with asyncio.timeout(service.config.request_timeout):
                async for chunk in _chunks(service, admitted):
                    yield chunk
        except TimeoutError:
            yield event(error_object(timed_out(service)))
        except RequestError as error:
            yield event(error_object(api_error(admitted.call.by_its_names(error))))
        except Exception as error:  # noqa: BLE001  # the client is told; what is no refusal is logged by `reported`
            yield event(error_object(service.reported(api_error(error), error)))
        yield DONE


async def _chunks(service: Service, admitted: Admitted) -> AsyncGenerator[bytes, None]:
    streamer = admitted.call.streamer(admitted.requests, admitted.envelope, service.door)
    async with service.engine.stream(admitted.requests) as stream:
        for chunk in streamer.begin():
            yield event(chunk)
        async for output in stream:
            service.tracer.see(output)
            check_ended(service, output)
            yield b"".join(map(event, streamer.push(output)))
    yield b"".join(map(event, streamer.finish()))


def check_ended(service: Service, output: RequestOutput) -> None:
    """Raise where the engine has ended a request that nobody here has ended: it is closing, has failed, or cannot go on.

    RequestError, by the engine's names, where the request contradicts itself.
    """
    if any(answer.finish_reason == "abort" for answer in output.outputs):
        raise unavailable(service)
    raise_error(output)


def timed_out(service: Service) -> ApiError:
    return ApiError(
        504, f"The request took longer than {service.config.request_timeout:g} seconds and was ended.",
        kind="server_error", code="timeout",
    )  # fmt: skip
