"""The engine as an answerer: the whole host tower over a fake executor."""

import json
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest

from orca_jax.batch.engine_answerer import EngineAnswerer
from orca_jax.batch.paths import Paths
from orca_jax.batch.pipeline import Order
from orca_jax.batch.runner import Limits
from orca_jax.batch.words import Answered, BatchError, Item
from orca_jax.core.config import EngineConfig
from orca_jax.core.sampling_params import SamplingParams
from orca_jax.engine.door import derived_seed
from orca_jax.engine.thread import EngineThread
from orca_jax.offline.llm import LLM
from orca_jax.protocol.completions import MAX_PROMPTS
from orca_jax.testing.fake_engine import FakeBuilt, build_fake_engine
from orca_jax.testing.tiny_tokenizer import write_tokenizer
from tests.batch.runs import line, records, run_batch

LINES = [
    line("a", body={"prompt": ["x", "yy"], "n": 2, "temperature": 1, "max_tokens": 3}),
    line("b", url="/v1/chat/completions", body={"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}),
    line("c", body={"prompt": "x" * 300}),
    line("d", body={"prompt": "x", "temperatur": 1}),
    line("e", body={"prompt": "x", "temperature": -1}),
    line("f", body={"prompt": "x", "model": "other"}),
    line("g", body={"prompt": "x", "seed": 7, "max_tokens": 2, "request_id": "mine"}),
    line("h", body={"prompt": [5, 6, 7], "max_tokens": 5, "logprobs": 1}),
]


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def built(tokenizer_folder: Path) -> FakeBuilt:
    return build_fake_engine(tokenizer_folder, EngineConfig(seed=3))


@pytest.fixture
def answerer(built: FakeBuilt) -> Iterator[EngineAnswerer]:
    with EngineThread(built.engine) as thread:
        yield EngineAnswerer(thread, built.door, built.engine.clock, model="fake", models=("fake",), wall=lambda: 1.5)
    built.engine.check()


def test_lines_are_answered_and_refused_as_a_server_would(make, answerer):
    paths = make(*LINES)
    counts = run_batch(paths, answerer)
    assert (counts.completed, counts.failed, counts.output_tokens) == (4, 4, 12 + 4 + 2 + 5)
    found = {record["custom_id"]: record["response"]["body"] for record in records(paths.output)}
    assert [choice["index"] for choice in found["a"]["choices"]] == [0, 1, 2, 3]
    assert found["a"]["usage"] == {"prompt_tokens": 3, "completion_tokens": 12, "total_tokens": 15}
    assert (found["b"]["object"], found["b"]["id"], found["b"]["created"]) == ("chat.completion", "chatcmpl-batch-2", 1)
    assert found["b"]["choices"][0]["message"]["role"] == "assistant" and found["b"]["model"] == "fake"
    assert found["g"]["id"] == "cmpl-mine" and len(found["h"]["choices"][0]["logprobs"]["tokens"]) == 5
    failed = {record["custom_id"]: record for record in records(paths.errors)}
    statuses = {name: record["response"]["status_code"] for name, record in failed.items()}
    assert statuses == {"c": 400, "d": 400, "e": 400, "f": 404}
    codes = {name: record["error"]["code"] for name, record in failed.items()}
    assert codes == {"c": "context_length_exceeded", "d": "invalid_request_error", "e": "invalid_request_error",
                     "f": "model_not_found"}  # fmt: skip
    assert "did you mean 'temperature'" in failed["d"]["error"]["message"]
    assert failed["e"]["error"]["message"].startswith("line 5: ") and failed["e"]["error"]["param"] == "temperature"


def test_a_greedy_answer_is_the_one_that_generate_gives(make, answerer, built):
    prompts = [f"prompt {n}" for n in range(8)]
    body = {"max_tokens": 6, "temperature": 0, "seed": 7}  # the double's answers depend on the seed, even greedy ones
    paths = make(*[line(prompt, body={"prompt": prompt, **body}) for prompt in prompts])
    run_batch(paths, answerer)
    texts = [record["response"]["body"]["choices"][0]["text"] for record in records(paths.output)]
    llm = LLM.over(built)  # the thread sleeps, so the engine may be turned from here
    outputs = llm.generate(prompts, SamplingParams(**body), use_tqdm=False)
    assert texts == [output.outputs[0].text for output in outputs] and any(texts)


def test_any_model_is_taken_where_none_is_named(make, built):
    with EngineThread(built.engine) as thread:
        paths = make(LINES[5])
        assert run_batch(paths, EngineAnswerer(thread, built.door, built.engine.clock, model="fake")).failed == 0


def test_seeds_depend_on_the_line_alone(answerer, built):
    def seed(number: int, **body: object) -> int:
        work = answerer.prepare(Item(number, "x", "/v1/completions", {"prompt": "x", **body}))
        return work.requests[0].params.seed

    assert seed(5) == seed(5) == derived_seed(3, 4 * MAX_PROMPTS) != seed(6)
    assert seed(5, seed=11) == 11
    several = answerer.prepare(Item(1, "x", "/v1/completions", {"prompt": ["x"] * MAX_PROMPTS})).requests
    assert len({request.params.seed for request in several} | {seed(2)}) == MAX_PROMPTS + 1


@pytest.mark.parametrize("order", [Order(), Order(seed=1)])
def test_a_run_in_pieces_gives_what_a_run_in_one_piece_gives(make, answerer, order):
    body = {"temperature": 1.0, "max_tokens": 6}
    paths = make(*[line(f"id{n}", body={"prompt": f"prompt {n}", **body}) for n in range(30)])
    whole = Paths.named(paths.source, paths.output.with_name("whole.jsonl"))
    run_batch(whole, answerer)
    stops = 0
    while not paths.output.exists():
        watch = lambda runner, counts, limit=5 * (stops + 1): counts.completed >= limit and runner.stop()
        run_batch(paths, answerer, limits=Limits(inflight=6, in_order=False), order=order, watch=watch)
        stops += 1
    assert stops > 2
    assert sorted(paths.output.read_bytes().splitlines()) == sorted(whole.output.read_bytes().splitlines())


def test_a_line_that_was_given_up_may_be_asked_again_at_once(answerer, built):
    """The engine has not delivered the end of the first request when the second comes."""
    item = Item(1, "a", "/v1/completions", {"prompt": "x", "max_tokens": 30})
    ends: SimpleQueue = SimpleQueue()
    for _ in range(20):
        answerer.submit(answerer.prepare(item), ends.put)
        answerer.cancel()
    work = answerer.prepare(item)
    answerer.submit(work, ends.put)
    reasons = [ends.get(timeout=30)[0].outputs[0].finish_reason for _ in range(21)]
    assert sorted(reasons) == ["abort"] * 20 + ["length"]


def test_what_is_given_up_is_aborted(make, answerer, built):
    paths = make(*[line(f"id{n}", body={"prompt": "x", "max_tokens": 50}) for n in range(40)])
    counts = run_batch(paths, answerer, watch=lambda runner, counts: runner.stop())
    assert 0 < counts.completed < 40
    left = answerer._thread.call(lambda engine: engine.scheduler.pool.num_requests).result(10)
    assert left == 0


def test_an_engine_that_dies_is_an_error_of_the_run(make, answerer, built, monkeypatch):
    paths = make(*[line(f"id{n}", body={"prompt": "x", "max_tokens": 20}) for n in range(20)])
    collect, left = built.engine.executor.collect, iter(range(40))

    def fail():
        if next(left, None) is None:
            raise RuntimeError("the device is gone")
        return collect()

    monkeypatch.setattr(built.engine.executor, "collect", fail)
    with pytest.raises(BatchError, match=r"the engine failed.*the device is gone.*the same command goes on"):
        run_batch(paths, answerer)
    assert not paths.output.exists() and 0 < len(records(paths.partial_output)) < 20


def test_a_line_that_contradicts_itself_is_refused_as_a_server_would(make, answerer, built):
    (brace,) = built.tokenizer.encode("{", False)
    body = {"prompt": "x", "response_format": {"type": "json_object"}, "allowed_token_ids": [brace]}
    paths = make(line("late", body=body))
    assert run_batch(paths, answerer).failed == 1
    (record,) = records(paths.errors)
    assert record["response"]["status_code"] == 400 and record["error"]["param"] == "response_format"


def test_one_request_without_a_token_to_choose_fails_alone(make, answerer, monkeypatch):
    """The engine goes on without it."""
    outcomes = []
    original = EngineAnswerer.answer

    def answer(self, work, raw):
        if work.name == "batch-2":
            raw[0].outputs[0].finish_reason, raw[0].error = "error", "logits are not finite"
        outcomes.append(original(self, work, raw))
        return outcomes[-1]

    monkeypatch.setattr(EngineAnswerer, "answer", answer)
    paths = make(*[line(f"id{n}", body={"prompt": "x", "max_tokens": 2}) for n in range(3)])
    counts = run_batch(paths, answerer)
    assert (counts.completed, counts.failed) == (2, 1)
    assert sum(isinstance(outcome, Answered) for outcome in outcomes) == 2
    (record,) = records(paths.errors)
    assert record["response"]["status_code"] == 500
    assert "not finite" not in json.dumps(record), "what went wrong inside is for the log"
