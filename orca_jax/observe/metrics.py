"""What has been counted, for Prometheus: vLLM's names, so that existing dashboards work, and what is ours beside them."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from orca_jax.core.errors import OrcaError
from orca_jax.observe.facts import Facts
from orca_jax.observe.histogram import Counts
from orca_jax.observe.ledger import Ledger, Reading

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector, CollectorRegistry
except ImportError as error:
    raise OrcaError("metrics need prometheus_client: pip install 'orca-jax[server]'") from error

PREFIX = "orca_jax"

GAUGES = {
    "num_requests_running": "Sequences that have been in an iteration and have not ended.",
    "num_requests_waiting": "Sequences that have not been in any iteration.",
    "kv_cache_usage_perc": "Share of the K/V pages that is reserved, 0 to 1.",
    "kv_pages": "Pages of K/V memory.",
    "kv_pages_reserved": "Pages that sequences hold.",
    "kv_pages_used": "Pages that hold at least one token.",
    "max_num_seqs": "Most rows of an iteration; iteration_rows over it is the occupancy of the batch.",
}
COUNTERS = {
    "prompt_tokens": "Prompt tokens processed.",
    "generation_tokens": "New tokens that were wanted.",
    "num_preemptions": "Always 0: memory is reserved at admission and never taken away.",
    "iterations": "Iterations that came back.",
    "padding_tokens": "Positions of compiled shapes that held no token; over them and iteration_tokens_total's sum, "
    "the padding share.",
    "compiles_after_warmup": "Programs compiled while serving; anything but 0 is a defect.",
    "host_gap_seconds": "Seconds in which sequences were live and no iteration was in flight: at the least, so long "
    "has the device waited for the host.",
    "host_wait_seconds": "Seconds for which the engine's thread waited for the device.",
}
HISTOGRAMS = {
    "time_to_first_token_seconds": "From arrival to a sequence's first token.",
    "inter_token_latency_seconds": "From one token of a sequence to its next.",
    "request_time_per_output_token_seconds": "Mean of a sequence's inter-token latencies.",
    "e2e_request_latency_seconds": "From arrival to a sequence's end.",
    "request_queue_time_seconds": "From arrival to a sequence's first iteration.",
    "request_inference_time_seconds": "From a sequence's first iteration to its end.",
    "request_prefill_time_seconds": "From a sequence's first iteration to its first token.",
    "request_decode_time_seconds": "From a sequence's first token to its end.",
    "request_prompt_tokens": "Tokens of a request's prompt.",
    "request_generation_tokens": "New tokens of a sequence.",
    "request_max_num_generation_tokens": "New tokens of a request's longest answer.",
    "request_params_n": "Answers that a request asked for.",
    "request_params_max_tokens": "max_tokens of a request.",
    "iteration_tokens_total": "Tokens of an iteration.",
    "iteration_rows": "Rows of an iteration.",
    "iteration_time_seconds": "From the end of one iteration to the end of the next, or from its launch after a pause.",
}


class Metrics(Collector):
    """A ledger as text for a scraper. Has a registry of its own: nothing of this process but the engine is in it.

    `rejections` are the requests refused before the engine saw them, so far, by reason.
    """

    def __init__(
        self,
        ledger: Ledger,
        facts: Facts,
        prefix: str = PREFIX,
        rejections: Callable[[], Mapping[str, int]] = dict,
    ):
        self._ledger = ledger
        self._facts = facts
        self._prefix = prefix
        self._rejections = rejections
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The text and its content type, in the format that the `Accept` header asks for. From any thread."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry then does not need to read the ledger when this is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        reading = self._ledger.read()
        yield from self._gauges(reading)
        for name, about in COUNTERS.items():
            yield self._counter(name, about, {"": reading.counters.get(name, 0)})
        yield self._counter("request_success", "Sequences that have ended.", reading.finished, "finished_reason")
        yield self._counter("admission_rejections", "Requests refused at the door.", dict(self._rejections()), "reason")
        for name, about in HISTOGRAMS.items():
            yield self._histogram(name, about, reading.histograms[name])

    @property
    def _labels(self) -> list[str]:
        return [self._facts.model, self._facts.engine]

    def _gauges(self, reading: Reading) -> Iterator[Metric]:
        facts = self._facts
        values = {
            "num_requests_running": reading.running,
            "num_requests_waiting": reading.waiting,
            "kv_cache_usage_perc": reading.pages_reserved / facts.num_pages,
            "kv_pages": facts.num_pages,
            "kv_pages_reserved": reading.pages_reserved,
            "kv_pages_used": reading.pages_used,
            "max_num_seqs": facts.max_num_seqs,
        }
        for name, about in GAUGES.items():
            gauge = GaugeMetricFamily(f"{self._prefix}:{name}", about, labels=["model_name", "engine"])
            gauge.add_metric(self._labels, values[name])
            yield gauge
        config = {
            "block_size": str(facts.page_size),
            "num_gpu_blocks": str(facts.num_pages),
            "max_model_len": str(facts.max_model_len),
            "enable_prefix_caching": "False",
        }
        about = "The K/V cache's settings, as labels."
        info = GaugeMetricFamily(f"{self._prefix}:cache_config_info", about, labels=["model_name", "engine", *config])
        info.add_metric([*self._labels, *config.values()], 1)
        yield info

    def _counter(self, name: str, about: str, values: Mapping[str, float], label: str | None = None) -> Metric:
        """One counter for each value of `label`; the only one where it is None."""
        labels = ["model_name", "engine", *([label] if label else [])]
        family = CounterMetricFamily(f"{self._prefix}:{name}", about, labels=labels)
        for of_label, value in values.items():
            family.add_metric([*self._labels, *([of_label] if label else [])], value)
        return family

    def _histogram(self, name: str, about: str, counted: Counts) -> Metric:
        family = HistogramMetricFamily(f"{self._prefix}:{name}", about, labels=["model_name", "engine"])
        buckets: list[tuple[str, float]] = []
        running = 0
        for bound, count in zip((*counted.bounds, float("inf")), counted.counts, strict=True):
            running += count
            buckets.append(("+Inf" if bound == float("inf") else repr(bound), running))
        family.add_metric(self._labels, buckets, counted.total)
        return family
