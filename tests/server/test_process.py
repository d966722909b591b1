"""A server as a process: how signals end it."""

import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

PROGRAM = Path(__file__).with_name("program.py")
ROOT = Path(__file__).resolve().parent.parent.parent
PATH = "/v1/completions"
LONG = {"model": "fake", "prompt": "hello", "max_tokens": 60, "seed": 1, "ignore_eos": True}


@contextmanager
def process(folder, delay, *settings, flags=()):
    command = [sys.executable, *flags, str(PROGRAM), str(folder), str(delay), *settings]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
                          env={"PYTHONPATH": str(ROOT), "PATH": ""}) as running:  # fmt: skip
        try:
            address = running.stdout.readline().strip()
            assert address, running.stderr.read()
            yield running, address
        finally:
            running.kill()


def in_background(address, count, present=0, **more):
    """Threads that ask, and what they are told; the requests are with the engine when this returns."""
    answers = []

    def ask():
        try:
            answers.append(httpx.post(address + PATH, json={**LONG, **more}, timeout=60))
        except httpx.TransportError as error:
            answers.append(error)

    clients = [threading.Thread(target=ask) for _ in range(count)]
    for client in clients:
        client.start()
    deadline = time.monotonic() + 30
    while requests_at(address) < present + count:
        assert time.monotonic() < deadline, answers
        time.sleep(0.01)
    return clients, answers


def requests_at(address):
    """How many requests the process has, by its own numbers."""
    lines = httpx.get(address + "/metrics", timeout=30).text.splitlines()
    named = ("orca_jax:num_requests_running", "orca_jax:num_requests_waiting")
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(named))


def until_health_is(address, status):
    deadline = time.monotonic() + 30
    while httpx.get(address + "/health", timeout=30).status_code != status:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_those_in_flight_finish(tokenizer_folder, number):
    with process(tokenizer_folder, 0.05) as (running, address):
        clients, answers = in_background(address, 4)
        running.send_signal(number)
        until_health_is(address, 503)
        late = httpx.post(address + PATH, json=LONG, timeout=60)
        for client in clients:
            client.join(30)
        assert running.wait(30) == 0
    assert [answer.status_code for answer in answers] == [200] * 4
    assert late.status_code == 503
    assert all(answer.json()["usage"]["completion_tokens"] == 60 for answer in answers)


def test_what_outlasts_the_drain_ends_with_a_typed_error(tokenizer_folder):
    with process(tokenizer_folder, 0.05, "shutdown_timeout=0.3") as (running, address):
        clients, answers = in_background(address, 3)
        streams, streamed = in_background(address, 1, present=3, stream=True)
        began = time.monotonic()
        running.send_signal(signal.SIGTERM)
        for client in clients + streams:
            client.join(30)
        assert running.wait(30) == 0
        assert time.monotonic() - began < 10
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.json()["error"]["code"] for answer in answers} == {"service_unavailable"}
    events = streamed[0].text.strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "service_unavailable"


def test_a_second_signal_does_not_wait(tokenizer_folder):
    with process(tokenizer_folder, 0.05) as (running, address):
        clients, _ = in_background(address, 2, stream=True)
        running.send_signal(signal.SIGTERM)
        until_health_is(address, 503)
        running.send_signal(signal.SIGTERM)
        assert running.wait(10) == 0
        for client in clients:
            client.join(10)


def test_row_43_a_process_that_was_stopped_for_a_while_goes_on(tokenizer_folder):
    """Longer than the watchdog's patience: to itself it looks as if an iteration had hung."""
    with process(tokenizer_folder, 0.05, "watchdog_timeout=1") as (running, address):
        clients, answers = in_background(address, 2)
        running.send_signal(signal.SIGSTOP)
        time.sleep(2)
        with pytest.raises(httpx.TimeoutException):
            httpx.get(address + "/health", timeout=0.1)
        running.send_signal(signal.SIGCONT)
        until_health_is(address, 200)
        for client in clients:
            client.join(30)
        assert [answer.status_code for answer in answers] == [200, 200]
        until_health_is(address, 200)
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0


def test_row_44_nobody_reads_what_it_says(tokenizer_folder):
    with process(tokenizer_folder, 0.05, "shutdown_timeout=0.1") as (running, address):
        running.stdout.close()
        assert httpx.post(address + PATH, json={**LONG, "max_tokens": 2}, timeout=60).status_code == 200
        clients, answers = in_background(address, 2)
        running.send_signal(signal.SIGTERM)  # with something left to be logged
        for client in clients:
            client.join(30)
        assert running.wait(30) == 0
        assert {answer.status_code for answer in answers} == {503}


def test_row_45_a_thousand_scrapes_under_load(tokenizer_folder):
    with process(tokenizer_folder, 0.005) as (running, address):
        ended, statuses, scrapes = threading.Event(), [], []

        def ask():
            while not ended.is_set():
                statuses.append(httpx.post(address + PATH, json=LONG, timeout=60).status_code)

        def scrape():
            with httpx.Client(base_url=address, timeout=60) as http:
                for _ in range(125):
                    answer = http.get("/metrics")
                    scrapes.append(answer.status_code == 200 and b"orca_jax:num_requests_running" in answer.content)

        client = threading.Thread(target=ask)
        scrapers = [threading.Thread(target=scrape) for _ in range(8)]
        for thread in (client, *scrapers):
            thread.start()
        for thread in scrapers:
            thread.join(60)
        assert scrapes == [True] * 1000
        ended.set()
        client.join(60)
        assert statuses
        assert set(statuses) == {200}
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0


def test_a_taken_port_is_one_line_and_a_status(tokenizer_folder):
    with process(tokenizer_folder, 0) as (_, address):
        port = address.rsplit(":", 1)[1]
        command = [sys.executable, "-m", "orca_jax", "serve", "--port", port]
        second = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert second.returncode == 2
    assert port in second.stderr.splitlines()[-1]
    assert "Traceback" not in second.stderr


def test_a_failed_engine_ends_the_server_with_status_1(tokenizer_folder):
    with process(tokenizer_folder, "fails") as (running, address):
        answer = httpx.post(address + PATH, json=LONG, timeout=60)
        assert answer.status_code == 500
        assert running.wait(30) == 1
