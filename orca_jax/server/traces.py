"""OpenTelemetry: a span for each request, from its arrival to its last token, under the caller's own trace.

The attributes are the semantic conventions for generative AI, and vLLM's names for the latencies.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode

from orca_jax.core.clock import Clock
from orca_jax.core.outputs import RequestMetrics, RequestOutput
from orca_jax.core.request import Request
from orca_jax.version import __version__


@dataclass(slots=True)
class _Open:
    request: Request
    parent: Context
    tokens: int = 0


class Traces:
    """Sends spans in the background to an OTLP endpoint (HTTP), such as http://localhost:4318/v1/traces."""

    def __init__(self, processor: SpanProcessor, model: str, clock: Clock):
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "orca_jax", "service.version": __version__}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("orca_jax", __version__)
        self._model = model
        self._clock = clock
        self._open: dict[str, _Open] = {}

    @classmethod
    def to(cls, endpoint: str, model: str, clock: Clock) -> "Traces":
        exporter: SpanExporter = OTLPSpanExporter(endpoint=endpoint)
        return cls(BatchSpanProcessor(exporter), model, clock)

    def begin(self, requests: Sequence[Request], headers: Mapping[str, str]) -> None:
        parent = propagate.extract(headers)
        for request in requests:
            self._open[request.request_id] = _Open(request, parent)

    def see(self, output: RequestOutput) -> None:
        open_ = self._open.get(output.request_id)
        if open_ is None:
            return
        open_.tokens += sum(len(answer.token_ids) for answer in output.outputs)
        if output.finished:
            reasons = sorted({answer.finish_reason or "" for answer in output.outputs})
            self._end(output.request_id, reasons, output.metrics, output.error)

    def drop(self, requests: Sequence[Request]) -> None:
        for request in requests:
            if request.request_id in self._open:
                self._end(request.request_id, ["abort"], None, None)

    def close(self) -> None:
        self._provider.shutdown()

    def _end(self, request_id: str, reasons: list[str], times: RequestMetrics | None, error: str | None) -> None:
        open_ = self._open.pop(request_id)
        span = self._tracer.start_span(
            "llm_request", context=open_.parent, kind=SpanKind.SERVER, start_time=self._wall(open_.request.arrival_time),
            attributes={**self._attributes(open_), "gen_ai.response.finish_reasons": reasons, **latencies(times)},
        )  # fmt: skip
        if error is not None:
            span.set_status(Status(StatusCode.ERROR, error))
        now = self._clock.now()
        span.end(self._wall(now if times is None or times.finished_time is None else times.finished_time))

    def _attributes(self, open_: _Open) -> dict[str, str | int | float]:
        params = open_.request.params
        return {
            "gen_ai.operation.name": "text_completion",
            "gen_ai.provider.name": "orca_jax",
            "gen_ai.request.model": self._model,
            "gen_ai.request.id": open_.request.request_id,
            "gen_ai.request.max_tokens": params.max_tokens or 0,
            "gen_ai.request.temperature": params.temperature,
            "gen_ai.request.top_p": params.top_p,
            "gen_ai.request.choice.count": params.n,
            "gen_ai.request.seed": params.seed or 0,
            "gen_ai.usage.input_tokens": len(open_.request.prompt_token_ids),
            "gen_ai.usage.output_tokens": open_.tokens,
        }

    def _wall(self, moment: float) -> int:
        """The engine's clock in seconds as nanoseconds since 1970."""
        return time.time_ns() - int((self._clock.now() - moment) * 1e9)


def latencies(times: RequestMetrics | None) -> dict[str, float]:
    """In seconds, those that are known."""
    if times is None:
        return {}
    spans = {
        "gen_ai.latency.time_in_queue": times.first_scheduled_time,
        "gen_ai.latency.time_to_first_token": times.first_token_time,
        "gen_ai.latency.e2e": times.finished_time,
    }
    return {name: moment - times.arrival_time for name, moment in spans.items() if moment is not None}
