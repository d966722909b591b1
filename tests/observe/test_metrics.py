"""The text that Prometheus scrapes: names that dashboards know, numbers that add up, one consistent moment."""

import json
import math
import re
import threading
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from orca_jax.core.events import IterationDone, IterationLaunched, RequestArrived, RowRecord, SequenceFinished
from orca_jax.core.sequence import Phase
from orca_jax.observe.facts import Facts
from orca_jax.observe.ledger import Ledger
from orca_jax.observe.metrics import Metrics

FACTS = Facts("tiny", 8, 100, 16, 512)
DASHBOARD = Path(__file__).resolve().parents[2] / "configs" / "grafana" / "orca_jax.json"
OF_VLLM = set(
    re.findall(
        r"\w+",
        """num_requests_running num_requests_waiting kv_cache_usage_perc cache_config_info prompt_tokens generation_tokens
request_success num_preemptions admission_rejections time_to_first_token_seconds inter_token_latency_seconds
request_time_per_output_token_seconds e2e_request_latency_seconds request_queue_time_seconds request_prompt_tokens
request_inference_time_seconds request_prefill_time_seconds request_decode_time_seconds request_generation_tokens
request_max_num_generation_tokens request_params_n request_params_max_tokens iteration_tokens_total""",
    )
)


def used_ledger(requests: int = 3) -> Ledger:
    ledger = Ledger()
    for number in range(requests):
        play(ledger, number)
    ledger(RequestArrived("waiting", 99.0, 4, 8, 1))
    return ledger


def play(ledger: Ledger, number: int) -> None:
    """One request: four prompt tokens, two new ones 1.8 ms apart, in shapes of 8 tokens."""
    name, start = str(number), float(number)
    ledger(RequestArrived(name, start, 4, 2, 1))
    ledger(IterationLaunched(2 * number, start, (RowRecord(name, 0, Phase.INITIATION, 0, 4),), (), 10, 5, 100))
    ledger(IterationDone(2 * number, start + 0.004, 1, 1, 0.001, 8, 8, 0, 10))
    ledger(IterationLaunched(2 * number + 1, start, (RowRecord(name, 0, Phase.INCREMENT, 4, 1),), (), 10, 6, 100))
    ledger(SequenceFinished(name, 0, start + 0.0058, "length", 2))
    ledger(IterationDone(2 * number + 1, start + 0.0058, 1, 1, 0.001, 8, 8))


def samples(text: bytes) -> dict[str, dict[tuple[str, ...], float]]:
    """By sample name, then by the values of the labels beyond model_name and engine."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert (labels.pop("model_name"), labels.pop("engine")) == ("tiny", "0")
            found.setdefault(sample.name, {})[tuple(labels.values())] = sample.value
    return found


def test_the_numbers_add_up():
    found = samples(Metrics(used_ledger(), FACTS, rejections=lambda: {"max_num_queued_reqs": 1}).render()[0])
    values = {name.removeprefix("orca_jax:"): value for name, value in found.items()}
    assert values["num_requests_waiting"] == {(): 1} and values["num_requests_running"] == {(): 0}
    assert values["prompt_tokens_total"] == {(): 12} and values["generation_tokens_total"] == {(): 6}
    assert values["iterations_total"] == {(): 6} and values["padding_tokens_total"] == {(): 6 * 8 - 15}
    assert values["compiles_after_warmup_total"] == {(): 0} and values["num_preemptions_total"] == {(): 0}
    assert values["request_success_total"] == {("stop",): 0, ("length",): 3, ("abort",): 0, ("error",): 0}
    assert values["admission_rejections_total"] == {("max_num_queued_reqs",): 1}
    assert values["inter_token_latency_seconds_bucket"][("0.002",)] == 3, "a step of 2 ms has a bucket of its own"
    assert values["inter_token_latency_seconds_bucket"][("0.0015",)] == 0
    assert values["time_to_first_token_seconds_sum"][()] == pytest.approx(0.012)
    assert values["request_time_per_output_token_seconds_sum"][()] == pytest.approx(0.0054)


def test_histograms_are_cumulative_and_end_with_their_count():
    found = samples(Metrics(used_ledger(), FACTS).render()[0])
    names = [name.removesuffix("_bucket") for name in found if name.endswith("_bucket")]
    assert len(names) == 16
    for name in names:
        counts = list(found[f"{name}_bucket"].values())
        bounds = [float(labels[0]) for labels in found[f"{name}_bucket"]]
        assert counts == sorted(counts) and bounds == sorted(bounds) and math.isinf(bounds[-1])
        assert counts[-1] == found[f"{name}_count"][()]


@pytest.mark.parametrize("prefix", ["orca_jax", "vllm"])
def test_the_names_are_those_of_vllm_under_either_prefix(prefix):
    text, content_type = Metrics(used_ledger(), FACTS, prefix).render()
    families = {family.name for family in text_string_to_metric_families(text.decode())}
    assert content_type.startswith("text/plain")
    assert {f"{prefix}:{name}" for name in OF_VLLM} <= families
    assert all(name.startswith(f"{prefix}:") for name in families), "nothing of the process or of other registries"


def test_openmetrics_on_request():
    text, content_type = Metrics(used_ledger(), FACTS).render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text") and text.endswith(b"# EOF\n")


def test_a_scrape_during_load_is_one_moment():
    """Another thread plays whole requests; each scrape sees tokens and gaps that belong together."""
    ledger, stop = Ledger(), threading.Event()

    def load() -> None:
        number = 0
        while not stop.is_set():
            play(ledger, number)
            number += 1

    thread = threading.Thread(target=load)
    thread.start()
    try:
        metrics = Metrics(ledger, FACTS)
        for _ in range(30):
            values = samples(metrics.render()[0])
            done, generated = (values[f"orca_jax:{name}_total"][()] for name in ("iterations", "generation_tokens"))
            ends = sum(values["orca_jax:request_success_total"].values())
            assert done == generated == values["orca_jax:iteration_tokens_total_count"][()]
            assert (
                ends == values["orca_jax:inter_token_latency_seconds_count"][()] and done // 2 <= ends <= done // 2 + 1
            )
    finally:
        stop.set()
        thread.join()


def test_the_dashboard_asks_only_for_what_there_is():
    exposed = set(samples(Metrics(used_ledger(), FACTS, rejections=lambda: {"any": 0}).render()[0]))
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    asked = {name for panel in dashboard["panels"] for target in panel.get("targets", [])
             for name in re.findall(r"\$prefix:(\w+)", target["expr"])}  # fmt: skip
    assert len(asked) > 15 and {f"orca_jax:{name}" for name in asked} <= exposed
