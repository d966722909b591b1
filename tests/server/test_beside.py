"""What takes long is done beside the event loop, each kind by threads of its own, in bounded numbers; a shutdown waits."""

import json
import socket
import threading

import pytest

from orca_jax.server import whole

PATH = "/v1/completions"
SHORT = {"model": "fake", "prompt": "hello", "max_tokens": 2, "seed": 1}


@pytest.fixture
def blocked(running):
    """`blocked("tokens", 3)` gives a crew so many pieces of work that last until the test ends."""
    release, futures = threading.Event(), []

    def block(crew, count):
        futures.extend(running.within(getattr(running.service.crews, crew).do(release.wait, 60)) for _ in range(count))
        running.until(lambda: getattr(running.service.crews, crew)._present == count)

    yield block
    release.set()
    for future in futures:
        assert future.result(30)


@pytest.mark.parametrize("crew", ["tokens", "files", "answers"])
def test_calls_do_not_wait_behind_other_work(running, blocked, crew):
    blocked(crew, 20)
    assert running.post(PATH, SHORT).status_code == 200


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
def test_too_many_texts_to_tokenise_are_refused(running, blocked, path):
    body = {"prompt": "hello"} if path == "/tokenize" else {"tokens": [5]}
    blocked("tokens", 64)
    answer = running.post(path, body)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
    assert running.post(PATH, SHORT).status_code == 200


def test_a_shutdown_waits_for_what_is_in_preparation(running, blocked):
    blocked("tokens", 1)
    client = threading.Thread(target=running.post, args=("/tokenize", {"prompt": "hello"}))
    client.start()
    running.until(lambda: running.service.calls_in_flight == 1)


@pytest.mark.parametrize("path", [PATH, "/v1/files"])
def test_and_for_bodies_on_their_way(serving, tmp_path, path):
    with serving(data_dir=str(tmp_path)) as running:
        host, port = running.address.removeprefix("http://").split(":")
        kind = "application/json" if path == PATH else "multipart/form-data; boundary=x"
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 100\r\n\r\n"
            connection.sendall(head.encode())
            running.until(lambda: running.service.calls_in_flight == 1)
        running.wait_until_idle()


def test_a_large_answer_is_written_beside_the_loop_and_says_the_same(running, monkeypatch):
    threads, write = [], whole.compact_answer
    monkeypatch.setattr(
        whole, "compact_answer", lambda answer: (threads.append(threading.current_thread().name), write(answer))[1]
    )
    body = {**SHORT, "prompt": [[5, 6, 7] * 20] * 3, "prompt_logprobs": 20}
    large = running.post(PATH, body)
    assert [name[:12] for name in threads] == ["orca-answers"]
    assert running.post(PATH, SHORT).status_code == 200
    assert len(threads) == 1, "a small one is not worth a thread"
    monkeypatch.setattr(whole, "AT_ONCE", 10**9)
    small = running.post(PATH, body)
    assert len(threads) == 1
    assert json.loads(large.content)["choices"] == json.loads(small.content)["choices"]
