"""The page's routes: types, caching, what a browser is allowed to load, and a feed that starts, stops and is bounded."""

import asyncio
import json
import re
import threading
from pathlib import Path

import pytest

from orca_jax.observe.facts import Facts
from orca_jax.observe.ledger import Ledger
from orca_jax.observe.live import LiveFeed
from orca_jax.server.live_stream import MOST_VIEWERS, LiveStream
from orca_jax.server.routes import page

FACTS = Facts("tiny", 8, 100, 16, 512)
FILES = sorted(path.name for path in page.FOLDER.iterdir())


@pytest.fixture
def client(running):
    with running.http() as client:
        yield client


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_served_with_its_type_and_only_once(client, name):
    answer = client.get(f"/page/{name}")
    assert answer.status_code == 200 and answer.content == (page.FOLDER / name).read_bytes()
    assert answer.headers["content-type"] == page.TYPES[Path(name).suffix]
    again = client.get(f"/page/{name}", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(f"/page/{name}", headers={"If-None-Match": '"other"'}).status_code == 200


def test_the_page_may_load_only_its_own_files(client):
    answer = client.get("/")
    assert answer.text == (page.FOLDER / "index.html").read_text(encoding="utf-8")
    policy = answer.headers["content-security-policy"]
    assert (
        "default-src 'none'" in policy
        and "unsafe" not in policy
        and answer.headers["x-content-type-options"] == "nosniff"
    )


@pytest.mark.parametrize("name", FILES)
def test_files_are_small_and_name_no_other_host_and_no_markup_from_strings(name):
    text = (page.FOLDER / name).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert text.count("\n") < 300
    assert not re.search(
        r"https?:|//[a-z]+\.|innerHTML|insertAdjacentHTML|document\.write|\beval\(|\son\w+=\"|style=\"", text
    )


def test_an_unknown_file_is_a_404_that_leads_nowhere(client):
    for name in ("nothing.js", "..%2f..%2fpage.py", "%2e%2e/live_stream.py", "x" * 5000):
        answer = client.get(f"/page/{name}")
        assert answer.status_code == 404 and len(answer.content) < 300


def get(running, path: str):
    with running.http() as http:
        return http.get(path)


def read(running, number: int, after_first=lambda: None) -> list[dict]:
    """The first `number` answers of a feed."""
    found: list[dict] = []
    with running.http() as http, http.stream("GET", "/live") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if line.startswith("data: "):
                found.append(json.loads(line[6:]))
                if len(found) == 1:
                    after_first()
                if len(found) == number:
                    return found
    return found


def test_the_feed_tells_what_the_engine_does_and_ends_with_the_server(serving):
    body = {"model": "fake", "prompt": [5] * 6, "max_tokens": 40, "ignore_eos": True, "request_id": "mine"}
    with serving(executor_delay=0.005) as running:
        first, *news = read(
            running, 3, lambda: threading.Thread(target=running.post, args=("/v1/completions", body)).start()
        )
        assert first["columns"] == [] and first["engine"]["model"] == "fake" and first["engine"]["max_num_seqs"] == 4
        columns = [column for answer in news for column in answer["columns"]]
        assert [column[0] for column in columns][:3] == [0, 1, 2]
        lanes = [lane for answer in news for lane in answer["lanes"]]
        assert lanes[0][1].startswith("cmpl-mine.") and lanes[0][3:5] == [6, 40] and lanes[-1][5] > 5
        assert "prompt" not in json.dumps([columns, lanes])
        viewer = threading.Thread(target=read, args=(running, 10**9))
        viewer.start()
        running.wait_until_idle()
        assert running.within(running.service.drain(5.0)).result(10.0)
        viewer.join(5.0)
        assert not viewer.is_alive(), "no viewer keeps the server from stopping"


def collect(stream: LiveStream, viewers: int, seconds: float, ending: list) -> list[list[bytes]]:
    async def watch() -> list[bytes]:
        return [news async for news in stream.events()]

    async def main() -> list[list[bytes]]:
        tasks = [asyncio.create_task(watch()) for _ in range(viewers)]
        await asyncio.sleep(seconds)
        assert stream.viewers == viewers
        ending.append(True)
        return await asyncio.wait_for(asyncio.gather(*tasks), 2.0)

    return asyncio.run(main())


def test_viewers_share_what_is_encoded(monkeypatch):
    feed, asked, ending = LiveFeed(Ledger(), FACTS), [], []
    real = feed.since
    monkeypatch.setattr(feed, "since", lambda cursor: asked.append(cursor) or {**real(cursor), "finished": len(asked)})
    stream = LiveStream(feed, lambda: bool(ending), interval=0.05)
    events = collect(stream, 20, 0.4, ending)
    assert stream.viewers == 0 and all(len(of_one) >= 3 for of_one in events)
    assert len(asked) < 3 * max(map(len, events)), "not once for each of twenty viewers"


def test_a_quiet_engine_is_told_of_once():
    ending: list = []
    stream = LiveStream(LiveFeed(Ledger(), FACTS), lambda: bool(ending), interval=0.02)
    ((news,),) = collect(stream, 1, 0.3, ending)
    assert news.startswith(b"data: {")


def test_too_many_viewers_are_refused(serving):
    with serving() as running, running.http() as http:
        streams = [http.stream("GET", "/live") for _ in range(MOST_VIEWERS)]
        try:
            for stream in streams:
                assert stream.__enter__().status_code == 200
            answer = get(running, "/live")
            assert answer.status_code == 503 and answer.headers["retry-after"] == "5"
            assert "viewers" in answer.json()["error"]["message"]
            assert get(running, "/health").status_code == 200
        finally:
            for stream in streams:
                stream.__exit__(None, None, None)


def test_metrics_tell_of_what_was_served_and_refused(serving):
    with serving(max_num_queued_reqs=1, metrics_prefix="vllm", executor_delay=0.01) as running:
        body = {"model": "fake", "prompt": [5] * 6, "max_tokens": 3, "ignore_eos": True}
        assert running.post("/v1/completions", {**body, "n": 2, "temperature": 1.0}).status_code == 200
        assert running.post("/v1/completions", {**body, "prompt": [[5], [6]]}).status_code == 429
        running.wait_until_idle()
        answer = get(running, "/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        labels = 'engine="0",model_name="fake"'
        for line in (
            f"vllm:generation_tokens_total{{{labels}}} 6.0",
            'vllm:request_success_total{engine="0",finished_reason="length",model_name="fake"} 2.0',
            'vllm:admission_rejections_total{engine="0",model_name="fake",reason="max_num_queued_reqs"} 1.0',
            f"vllm:kv_pages_reserved{{{labels}}} 0.0",
            f"vllm:compiles_after_warmup_total{{{labels}}} 0.0",
        ):
            assert line in answer.text.splitlines()


def test_scrapes_are_quick_and_whole_under_load(serving):
    body = {"model": "fake", "prompt": [5] * 6, "max_tokens": 50, "ignore_eos": True}
    with serving(executor_delay=0.001) as running:
        threads = [threading.Thread(target=running.post, args=("/v1/completions", body)) for _ in range(8)]
        for thread in threads:
            thread.start()
        with running.http() as http:
            seen = [http.get("/metrics").text for _ in range(20)]
        for thread in threads:
            thread.join()
        counts = [float(re.search(r"orca_jax:iterations_total\{\S* (\S+)", text)[1]) for text in seen]
        assert counts == sorted(counts) and all(text.count("\n") == seen[0].count("\n") for text in seen)
