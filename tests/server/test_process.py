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


def in_background(address, count, **more):
    answers = []

    def ask():
        try:
            answers.append(httpx.post(address + PATH, json={**LONG, **more}, timeout=60))
        except httpx.TransportError as error:
            answers.append(error)

    clients = [threading.Thread(target=ask) for _ in range(count)]
    for client in clients:
        client.start()
    time.sleep(0.4)
    return clients, answers


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_those_in_flight_finish(tokenizer_folder, number):
    with process(tokenizer_folder, 0.01) as (running, address):
        clients, answers = in_background(address, 4)
        running.send_signal(number)
        time.sleep(0.1)
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
        streams, streamed = in_background(address, 1, stream=True)
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
        time.sleep(0.2)
        running.send_signal(signal.SIGTERM)
        assert running.wait(10) == 0
        for client in clients:
            client.join(10)


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
