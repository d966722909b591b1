"""Too many at once, clients that leave, requests that last too long, keys, signals, and a device that hangs or fails."""

import asyncio
import contextlib
import json
import threading
import time

import httpx
import pytest

from orca_jax.server.event_stream import EventStream
from orca_jax.server.waiting_room import WaitingRoom
from orca_jax.server.watchdog import watch
from orca_jax.testing.requests import make_request

PATH = "/v1/completions"
SHORT = {"model": "fake", "prompt": "hello", "max_tokens": 2, "seed": 1}
LONG = {"model": "fake", "prompt": "hello", "max_tokens": 50, "seed": 1, "ignore_eos": True}


def test_row_39_a_full_queue_refuses_at_once_and_recovers(serving):
    with serving(executor_delay=0.01, max_num_queued_reqs=2) as running:

        async def burst():
            async with httpx.AsyncClient(base_url=running.address, timeout=60) as http:
                return await asyncio.gather(*(http.post(PATH, json=LONG) for _ in range(40)))

        answers = asyncio.run(burst())
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(refused) >= 20
        assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
        assert refused[0].json()["error"]["code"] == "rate_limit_exceeded"
        assert {answer.status_code for answer in answers} == {200, 429}
        assert running.service.room.rejections["max_num_queued_reqs"] == len(refused)
        running.wait_until_idle()
        assert running.post(PATH, SHORT).status_code == 200


def test_row_39_so_does_one_full_of_tokens(serving):
    with serving(executor_delay=0.01, max_num_queued_tokens=40) as running:

        async def burst():
            async with httpx.AsyncClient(base_url=running.address, timeout=60) as http:
                body = {**LONG, "prompt": [5] * 20, "max_tokens": 40}
                return await asyncio.gather(*(http.post(PATH, json=body) for _ in range(20)))

        assert {answer.status_code for answer in asyncio.run(burst())} == {200, 429}
        assert running.service.room.rejections["max_num_queued_tokens"] > 0
        running.wait_until_idle()


def test_row_39_of_a_burst_those_too_many_are_refused_before_any_is_tokenised(serving):
    with serving(max_num_queued_reqs=2) as running:
        release, prepare, answers = threading.Event(), running.service._prepare, []

        def slow(*arguments):
            release.wait(30)
            return prepare(*arguments)

        running.service._prepare = slow
        clients = [threading.Thread(target=lambda: answers.append(running.post(PATH, SHORT))) for _ in range(2)]
        for client in clients:
            client.start()
        running.until(lambda: running.service._preparing == 2)
        assert running.post(PATH, SHORT).status_code == 429
        release.set()
        for client in clients:
            client.join(30)
        assert [answer.status_code for answer in answers] == [200, 200]
        running.wait_until_idle()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("others", [0, 12])
def test_row_38_clients_that_leave_free_their_pages(serving, stream, others):
    """While it runs, and while it waits behind others."""
    with serving(executor_delay=0.02) as running:

        async def leave():
            async with httpx.AsyncClient(base_url=running.address, timeout=60) as http:
                crowd = [
                    asyncio.create_task(http.post(PATH, json={**LONG, "stream": stream})) for _ in range(1 + others)
                ]
                while running.service.calls_in_flight < 1 + others or not await asyncio.to_thread(requests_in, running):
                    await asyncio.sleep(0.005)
                assert not any(task.done() for task in crowd)
                for task in crowd:
                    task.cancel()
                await asyncio.gather(*crowd, return_exceptions=True)

        asyncio.run(asyncio.wait_for(leave(), 30))
        left = time.monotonic()
        running.wait_until_idle()
        assert time.monotonic() - left < 5
        assert requests_in(running) == 0


def requests_in(running):
    return running.engine(lambda engine: engine.scheduler.statistics()["requests"])


def test_row_38_two_hundred_that_leave_at_once(serving):
    """The row's thousand, at a size that two processors share with other tests."""
    body = json.dumps({**LONG, "stream": True}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    with serving(executor_delay=0.02) as running:
        host, port = running.address.removeprefix("http://").split(":")

        async def crowd():
            connections = [await asyncio.open_connection(host, int(port)) for _ in range(200)]
            for _, writer in connections:
                writer.write(head + str(len(body)).encode() + b"\r\n\r\n" + body)
            while running.service.calls_in_flight < 200 or not await asyncio.to_thread(requests_in, running):
                await asyncio.sleep(0.01)
            for _, writer in connections:
                writer.transport.abort()

        asyncio.run(asyncio.wait_for(crowd(), 60))
        running.wait_until_idle()
        assert requests_in(running) == 0
        assert running.post(PATH, SHORT).status_code == 200


def test_row_38_a_client_that_leaves_in_the_middle_of_its_body(serving):
    import socket

    with serving() as running:
        host, port = running.address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                               b"Content-Length: 100\r\n\r\n{")  # fmt: skip
        running.wait_until_idle()
        assert running.post(PATH, SHORT).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_that_takes_too_long_is_ended(serving, stream):
    with serving(executor_delay=0.05, request_timeout=0.2) as running:
        answer = running.post(PATH, {**LONG, "stream": stream})
        if stream:
            events = answer.text.strip().split("\n\n")
            assert events[-1] == "data: [DONE]"
            error = json.loads(events[-2].removeprefix("data: "))["error"]
        else:
            assert answer.status_code == 504
            error = answer.json()["error"]
        assert error["code"] == "timeout"
        running.wait_until_idle()


KEY = "a-secret-of-the-server"


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ([("authorization", f"Bearer {KEY}")], 200),
        ([("authorization", f"bearer {KEY}")], 200),
        ([], 401),
        ([("authorization", "Bearer wrong-key")], 401),
        ([("authorization", f"Bearer {KEY[:-1]}")], 401),
        ([("authorization", f"Bearer {KEY}x")], 401),
        ([("authorization", KEY)], 401),
        ([("authorization", "Bearer")], 401),
        ([("authorization", "Bearer ключ".encode())], 401),
        ([("authorization", "Basic !!!")], 401),
        ([("authorization", "Basic eDphLXNlY3JldC1vZi10aGUtc2VydmVy")], 200),
        ([("authorization", f"Bearer {KEY}"), ("authorization", "Bearer x")], 401),
    ],
)
def test_row_42_keys(serving, tmp_path, headers, wanted):
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    with serving(api_key_file=str(file)) as running, running.http() as http:
        for path in ("/v1/models", "/version", "/openapi.json", "/health_generate"):
            answer = http.get(path, headers=headers)
            assert answer.status_code == wanted, path
        if wanted == 401:
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert answer.json()["error"]["code"] == "invalid_api_key"
            for path in ("/nothing", "//health", "/health/", "/HEALTH", "/health%00", "/health/../v1/models"):
                assert http.get(path, headers=headers).status_code == 401, path
            assert http.post(PATH, json=SHORT, headers=headers).status_code == 401
        assert http.get("/health").status_code == 200
        assert http.get("/health?x=1").status_code == 200


def test_row_43_draining_lets_the_present_finish_and_admits_nobody(serving):
    with serving(executor_delay=0.02) as running:
        answers = []
        client = threading.Thread(target=lambda: answers.append(running.post(PATH, LONG)))
        client.start()
        running.wait_until_running(1)
        drained = running.within(running.service.drain(30))
        time.sleep(0.05)
        late = running.post(PATH, SHORT)
        assert late.status_code == 503
        assert late.headers["retry-after"]
        with running.http() as http:
            assert http.get("/health").status_code == 503
        assert drained.result(30)
        client.join(30)
        assert answers[0].status_code == 200
        assert answers[0].json()["usage"]["completion_tokens"] == 50


def test_row_43_what_is_left_ends_with_an_error_of_its_own(serving):
    with serving(executor_delay=0.05) as running:
        answers = []
        clients = [
            threading.Thread(target=lambda body=body: answers.append(running.post(PATH, body)))
            for body in (LONG, {**LONG, "stream": True})
        ]
        for client in clients:
            client.start()
        running.wait_until_running(2)
        assert not running.within(running.service.drain(0.1)).result(30)
        running.service.thread.close()
        for client in clients:
            client.join(30)
        whole = next(answer for answer in answers if answer.status_code != 200)
        assert whole.status_code == 503
        assert whole.json()["error"]["code"] == "service_unavailable"
        streamed = next(answer for answer in answers if answer.status_code == 200)
        assert '"service_unavailable"' in streamed.text.split("\n\n")[-3]
        assert streamed.text.endswith("data: [DONE]\n\n")


def test_row_43_a_hung_iteration_shows_in_health_with_all_stacks_in_the_log(serving, caplog):
    with serving(watchdog_timeout=0.2) as running:
        release = threading.Event()
        collect = running.service.thread.call(lambda engine: engine.executor.collect).result(30)

        def hang():
            release.wait(30)
            return collect()

        running.engine(lambda engine: setattr(engine.executor, "collect", hang))
        dog = running.within(watch(running.service))
        client = threading.Thread(target=running.post, args=(PATH, SHORT))
        client.start()
        with running.http() as http:
            answer = http.get("/health")
            deadline = time.monotonic() + 30
            while answer.status_code == 200 and time.monotonic() < deadline:
                time.sleep(0.02)
                answer = http.get("/health")
            assert answer.status_code == 503
            assert "watchdog" in answer.json()["error"]["message"]
            assert "in hang" in caplog.text
            release.set()
            client.join(30)
            while http.get("/health").status_code != 200:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        dog.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            dog.result(5)


def test_a_failed_engine_is_told_to_all_and_health_is_truthful(serving):
    with serving(executor_delay=0.01) as running:

        def fail():
            raise OSError("the device is gone")

        running.engine(lambda engine: setattr(engine.executor, "collect", fail))
        answer = running.post(PATH, LONG)
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == "server_error"
        assert "device" not in answer.text, "what failed may name paths; it is in the log"
        with running.http() as http:
            assert http.get("/health").status_code == 503
            assert http.get("/health_generate").status_code == 503
        assert running.post(PATH, SHORT).status_code == 503


def test_a_stream_that_cannot_even_begin_is_over_all_the_same():
    """A generator that was never started runs no `finally` of its own."""
    ended = []

    async def chunks():
        yield b"never"

    async def broken(message):
        raise RuntimeError("such a header cannot be sent")

    async def serve():
        await EventStream(chunks(), ended=lambda: ended.append(True))({}, broken, broken)

    with pytest.raises(RuntimeError, match="such a header"):
        asyncio.run(serve())
    assert ended == [True]


def test_behind_a_proxy_health_is_still_open_to_all(serving):
    with serving(root_path="/api", api_key=KEY) as running, running.http() as http:
        assert http.get("/health").status_code == 200
        assert http.get("/v1/models").status_code == 401
        assert http.get("/v1/models", headers={"authorization": f"Bearer {KEY}"}).status_code == 200


def test_the_waiting_room_remembers_only_of_late():
    now = [0.0]
    room = WaitingRoom(10, 10**6, lambda: now[0])
    for number in range(10_000):
        now[0] += 0.1
        request = make_request(3, request_id=str(number))
        room.enter([request])
        room.leave([request.request_id])
    assert len(room._departures) <= 101
