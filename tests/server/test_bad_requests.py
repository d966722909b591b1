"""What a client can send wrongly over HTTP: one clear error each, and afterwards an ordinary request as usual.

The bodies' fields are the protocol's business (tests/protocol/test_refusals.py); here are bytes, headers and paths.
"""

import json
import socket
import time

import pytest

from orca_jax.core.resources import demo_model_dir

ORDINARY = {"model": "fake", "prompt": "hello", "max_tokens": 4, "seed": 1}
PATH = "/v1/completions"
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def usual(running):
    return running.post(PATH, ORDINARY).json()["choices"]


@pytest.fixture(autouse=True)
def still_serves(running, usual):
    yield
    running.wait_until_idle()
    with running.http() as http:
        assert http.get("/health").status_code == 200
        assert http.post(PATH, json=ORDINARY).json()["choices"] == usual


def raw(running, data, wait=5.0):
    """Send bytes as they are; returns all that comes back until the server closes or falls silent."""
    host, port = running.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=wait) as connection:
        received = b""
        try:
            for part in [data] if isinstance(data, bytes) else data:
                connection.sendall(part)
            while b"\r\n\r\n" not in received or not _complete(received):
                part = connection.recv(65536)
                if not part:
                    break
                received += part
        except (ConnectionError, TimeoutError):
            return received  # closing and silence are answers, too: the caller looks at what had come by then
    return received


def _complete(received):
    head, _, body = received.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.split(b":")[1])
    return False


def status(received):
    return int(received.split(b" ", 2)[1]) if received else None


def refused(answer, wanted):
    assert answer.status_code == wanted, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert len(answer.content) < 1000
    return error


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'"x"', b"3", b"{", b'{"prompt":"a",}', b'{"prompt":NaN}', b"\xff",
                                  b'{"prompt":"a","prompt":"b"}', b"[" * 100_000])  # fmt: skip
def test_rows_1_2_7_what_is_no_object(running, body):
    with running.http() as http:
        refused(http.post(PATH, content=body, headers={"content-type": "application/json"}), 400)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", None])
def test_row_3_other_types(running, kind):
    with running.http() as http:
        headers = {} if kind is None else {"content-type": kind}
        refused(http.post(PATH, content=json.dumps(ORDINARY), headers=headers), 415)


def test_row_4_a_huge_body_is_refused_before_it_has_come(running):
    head = HEAD + b"Content-Length: 100000000\r\n\r\n"
    began = time.monotonic()
    assert status(raw(running, head + b"{")) == 413
    assert time.monotonic() - began < 5


def test_row_4_a_huge_body_without_a_length(running):
    def parts():
        yield (
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(100):
            yield b"100000\r\n" + b" " * 0x100000 + b"\r\n"

    assert status(raw(running, parts())) == 413


def test_row_5_a_body_that_never_comes(serving):
    with serving(body_timeout=0.2) as running:
        head = HEAD + b"Content-Length: 100\r\n\r\n{"
        assert status(raw(running, head)) == 408


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 2**20 + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
        + b"".join(b"X%d: aaaa\r\n" % i for i in range(10_000))
        + b"\r\n",
        b"GET /" + b"a" * 2**20 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    ],
    ids=["long-header", "many-headers", "long-url", "nonsense", "negative-length", "two-lengths"],
)
def test_row_6_heads_without_measure(running, head):
    assert status(raw(running, head)) in (400, 414, 431, None), "None: it closed while we were still sending"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_row_8_other_methods(running, method):
    with running.http() as http:
        answer = http.request(method, PATH)
    refused(answer, 405)
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "path", ["/nothing", "//v1/models", "/v1/../metricz", "/v1//models", "/V1/models", "/%00", "/v1/models%2f"]
)
def test_row_8_other_paths(running, path):
    target = path.encode()
    answer = raw(running, b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert status(answer) == 404
    assert b'"error"' in answer


@pytest.mark.parametrize(
    ("model", "wanted"), [(None, 400), ("other", 404), (5, 400), ("../../etc/passwd", 404), ("x" * 10**5, 404)]
)
def test_row_9_models(running, model, wanted):
    body = {"prompt": "x"} if model is None else {"prompt": "x", "model": model}
    error = refused(running.post(PATH, body), wanted)
    assert error["param"] == "model"
    assert str(demo_model_dir().parent) not in error["message"]


def test_row_33_templates_from_requests_are_off_unless_trusted(running, serving):
    body = {
        "model": "fake",
        "messages": [{"role": "user", "content": "x"}],
        "chat_template": "{{ messages[0].content }}",
    }
    assert refused(running.post("/v1/chat/completions", body), 400)["param"] == "chat_template"
    with serving(trust_request_chat_template=True) as trusting:
        assert trusting.post("/v1/chat/completions", {**body, "max_tokens": 2}).status_code == 200


def test_row_41_what_can_never_fit_is_refused_at_the_door(running):
    assert refused(running.post(PATH, {**ORDINARY, "n": 64, "max_tokens": 50}), 400)["param"] == "n"


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
@pytest.mark.parametrize(
    "body",
    [{}, {"prompt": "a", "messages": []}, {"tokens": [-1]}, {"tokens": [2**40]}, {"tokens": "x"}, {"promt": "x"}],
)
def test_tokens(running, path, body):
    refused(running.post(path, body), 400)


def test_tokenize_and_back(running):
    with running.http() as http:
        found = http.post("/tokenize", json={"prompt": "hello world", "return_token_strs": True}).json()
        assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
        assert "".join(found["token_strs"]) == "hello world"
        assert http.post("/detokenize", json={"tokens": found["tokens"]}).json() == {"prompt": "hello world"}
        chat = http.post("/tokenize", json={"messages": [{"role": "user", "content": "hello"}]}).json()
        assert chat["count"] > 1


def test_a_defect_is_a_500_without_details(serving, caplog):
    with serving() as running:
        running.service._prepare = lambda *_: {}["/secret/path"]
        error = refused(running.post(PATH, ORDINARY), 500)
    assert "secret" not in error["message"]
    assert "secret" in caplog.text
