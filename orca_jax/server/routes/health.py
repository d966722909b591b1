"""Whether the server works: by what it knows of itself, and by making a token."""

import asyncio
import time

from fastapi import APIRouter

from orca_jax.core.sampling_params import RequestOutputKind, SamplingParams
from orca_jax.protocol.answers import HealthAnswer
from orca_jax.protocol.errors import ApiError
from orca_jax.server.documents import responses
from orca_jax.server.http import JsonAnswer
from orca_jax.server.service import Service
from orca_jax.server.serving import check_ended

GENERATE_SECONDS = 20.0


def routes(service: Service) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/health", responses=responses(HealthAnswer, errors=(503,)))
    async def health() -> JsonAnswer:
        """200 while requests are served, 503 with the reason when not. Needs no key."""
        service.check_open()
        return JsonAnswer({"status": "ok"})

    @router.get("/health_generate", responses=responses(HealthAnswer, errors=(401, 429, 503)))
    async def health_generate() -> JsonAnswer:
        """As /health, but a token has been made to prove it."""
        service.check_open()
        params = SamplingParams(
            max_tokens=1, temperature=0.0, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
        )
        request = service.request([0], params, f"health-{time.monotonic_ns()}")
        service.room.enter([request])
        try:
            async with service.in_flight(), asyncio.timeout(GENERATE_SECONDS):
                (output,) = await service.engine.generate([request])
        except TimeoutError as error:
            raise ApiError(
                503, f"No token was made within {GENERATE_SECONDS:g} seconds.", kind="server_error",
                code="service_unavailable",
            ) from error  # fmt: skip
        finally:
            service.room.leave([request.request_id])
        check_ended(service, output)
        return JsonAnswer({"status": "ok"})

    return router
