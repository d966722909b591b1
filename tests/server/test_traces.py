"""A span for each request, with its times and counts, under the caller's trace."""

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from orca_jax.core.sampling_params import SamplingParams
from orca_jax.server.traces import Traces

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
BODY = {"model": "fake", "prompt": ["hello", [4, 5, 6]], "max_tokens": 4, "seed": 1, "ignore_eos": True}


@pytest.fixture
def spans(running):
    exporter = InMemorySpanExporter()
    before = running.service.tracer
    running.service.tracer = Traces(SimpleSpanProcessor(exporter), "fake", running.service._clock)
    yield exporter.get_finished_spans
    running.service.tracer = before


@pytest.mark.parametrize("stream", [False, True])
def test_a_span_tells_what_a_request_was(running, spans, stream):
    answer = running.post("/v1/completions", {**BODY, "stream": stream}, headers={"traceparent": PARENT})
    assert answer.status_code == 200
    first, second = sorted(spans(), key=lambda span: span.attributes["gen_ai.request.id"])
    assert second.attributes["gen_ai.usage.input_tokens"] == 3
    for span in (first, second):
        assert f"{span.context.trace_id:032x}" == PARENT.split("-")[1]
        assert span.attributes["gen_ai.usage.output_tokens"] == 4
        assert span.attributes["gen_ai.response.finish_reasons"] == ("length",)
        queue, first_token, whole = (
            span.attributes[f"gen_ai.latency.{name}"] for name in ("time_in_queue", "time_to_first_token", "e2e")
        )
        assert 0 <= queue <= first_token <= whole
        assert (span.end_time - span.start_time) / 1e9 == pytest.approx(whole, abs=0.05)


def test_a_call_that_never_finishes_leaves_nothing_open(running, spans):
    running.service.tracer.begin([running.service.request([5], SamplingParams(max_tokens=1), "never")], {})
    running.service.tracer.drop([running.service.request([5], SamplingParams(max_tokens=1), "never")])
    (span,) = spans()
    assert span.attributes["gen_ai.response.finish_reasons"] == ("abort",)
    assert not running.service.tracer._open
