"""The numbers of the engine and of its door, for Prometheus."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from orca_jax.observe.metrics import Metrics
from orca_jax.server.service import Service


def routes(service: Service) -> APIRouter:
    router = APIRouter(include_in_schema=False)  # its format is Prometheus', which OpenAPI has no words for
    metrics = Metrics(service.ledger, service.facts, service.config.metrics_prefix, lambda: service.room.rejections)

    @router.get("/metrics")
    async def scrape(request: Request) -> Response:
        """Everything that has been counted, at one moment."""
        body, content_type = metrics.render(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type, "cache-control": "no-store"})

    return router
