"""The page's routes: types, caching, what a browser is allowed to load, and a feed that starts, stops and is bounded."""

import asyncio
import json
import re
import time
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from orca_jax.observe.facts import Facts
from orca_jax.observe.ledger import Ledger
from orca_jax.observe.live import LiveFeed
from orca_jax.server import live_stream, page_routes
from orca_jax.server.live_stream import LiveStream
from tests.server.page_double import serving

FACTS = Facts("tiny", 8, 100, 16, 512)
FILES = sorted(path.name for path in page_routes.FOLDER.iterdir())


@pytest.fixture
def client():
    app = FastAPI()
    page_routes.page_routes(app, LiveFeed(Ledger(), FACTS))
    return TestClient(app)


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_served_with_its_type_and_only_once(client, name):
    answer = client.get(f"/page/{name}")
    assert answer.status_code == 200 and answer.content == (page_routes.FOLDER / name).read_bytes()
    assert answer.headers["content-type"] == page_routes.TYPES[Path(name).suffix]
    again = client.get(f"/page/{name}", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(f"/page/{name}", headers={"If-None-Match": '"other"'}).status_code == 200


def test_the_page_may_load_only_its_own_files(client):
    answer = client.get("/")
    assert answer.text == (page_routes.FOLDER / "index.html").read_text(encoding="utf-8")
    policy = answer.headers["content-security-policy"]
    assert (
        "default-src 'none'" in policy
        and "unsafe" not in policy
        and answer.headers["x-content-type-options"] == "nosniff"
    )


@pytest.mark.parametrize("name", FILES)
def test_files_are_small_and_name_no_other_host_and_no_markup_from_strings(name):
    text = (page_routes.FOLDER / name).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert text.count("\n") < 300
    assert not re.search(
        r"https?:|//[a-z]+\.|innerHTML|insertAdjacentHTML|document\.write|\beval\(|\son\w+=\"|style=\"", text
    )


def test_an_unknown_file_is_a_404_that_leads_nowhere(client):
    for name in ("nothing.js", "..%2f..%2fpage_routes.py", "%2e%2e/live_stream.py", "x" * 5000):
        answer = client.get(f"/page/{name}")
        assert answer.status_code == 404 and len(answer.content) < 300


def read(url: str, number: int, after_first=None) -> list[dict]:
    """The first `number` answers of a feed."""
    found: list[dict] = []
    with httpx.stream("GET", f"{url}/live", timeout=10) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if line.startswith("data: "):
                found.append(json.loads(line[6:]))
                if after_first is not None and len(found) == 1:
                    after_first()
                if len(found) == number:
                    return found
    return found


def test_the_feed_tells_what_the_engine_does_and_ends_with_the_server():
    with serving(seconds=0.002) as (url, loop):
        first, *news = read(url, 3, lambda: loop.add(6, 40))
        assert first["columns"] == [] and first["engine"]["model"] == "double"
        assert [column[0] for answer in news for column in answer["columns"]][:3] == [0, 1, 2]
        begun = time.monotonic()
    assert time.monotonic() - begun < 5, "no viewer keeps the server from stopping"


def collect(stream: LiveStream, viewers: int, seconds: float) -> list[list[bytes]]:
    async def watch() -> list[bytes]:
        return [event async for event in stream.events()]

    async def main() -> list[list[bytes]]:
        tasks = [asyncio.create_task(watch()) for _ in range(viewers)]
        await asyncio.sleep(seconds)
        assert stream.viewers == viewers
        stream.close()
        return await asyncio.wait_for(asyncio.gather(*tasks), 1.0)

    return asyncio.run(main())


def test_viewers_share_what_is_encoded(monkeypatch):
    feed = LiveFeed(Ledger(), FACTS)
    asked: list[int] = []
    real = feed.since
    monkeypatch.setattr(feed, "since", lambda cursor: asked.append(cursor) or {**real(cursor), "finished": len(asked)})
    stream = LiveStream(feed, interval=0.05)
    events = collect(stream, viewers=20, seconds=0.4)
    assert stream.viewers == 0 and all(len(of_one) >= 4 for of_one in events)
    assert len({of_one[3] for of_one in events}) <= 2 and len(asked) <= 12, "not once for each of twenty viewers"


def test_a_quiet_engine_costs_almost_nothing(monkeypatch):
    monkeypatch.setattr(live_stream, "SILENCE", 0.2)
    (events,) = collect(LiveStream(LiveFeed(Ledger(), FACTS), interval=0.02), viewers=1, seconds=0.5)
    told = [event for event in events if event.startswith(b"data")]
    assert len(told) == 1 and 1 <= len(events) - 1 <= 3, "then only signs of life"


def test_too_many_viewers_are_refused(client):
    stream = LiveStream(LiveFeed(Ledger(), FACTS), most_viewers=0)
    assert stream.full
    app = FastAPI()
    page_routes.page_routes(app, LiveFeed(Ledger(), FACTS))._most_viewers = 0
    answer = TestClient(app).get("/live")
    assert (
        answer.status_code == 503
        and answer.headers["retry-after"]
        and "too many viewers" in answer.json()["error"]["message"]
    )
