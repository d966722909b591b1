"""Files and batches with the real `openai` package: upload, create, poll, cancel, fetch, and a server that comes back."""

import json
import socket
import time

import openai
import pytest

from orca_jax.batch.store import Store
from orca_jax.batch.words import BatchError

COMPLETIONS = "/v1/completions"
PATIENCE = 60.0


def line(number, **body):
    asked = {"model": "fake", "prompt": f"prompt {number}", "max_tokens": 5, "ignore_eos": True, **body}
    return json.dumps({"custom_id": f"r{number}", "method": "POST", "url": COMPLETIONS, "body": asked})


def upload(client, lines):
    return client.files.create(file=("in.jsonl", "\n".join(lines).encode()), purpose="batch")


def create(client, lines, **more):
    return client.batches.create(
        input_file_id=upload(client, lines).id, endpoint=COMPLETIONS, completion_window="24h", **more
    )


def until(client, batch, *states):
    deadline = time.monotonic() + PATIENCE
    while batch.status not in states:
        assert time.monotonic() < deadline, batch
        time.sleep(0.02)
        batch = client.batches.retrieve(batch.id)
    return batch


def contents(client, file_id):
    return {record["custom_id"]: record for record in map(json.loads, client.files.content(file_id).text.splitlines())}


@pytest.fixture
def running(serving, tmp_path):
    with serving(data_dir=str(tmp_path / "data")) as running:
        yield running
        running.wait_until_idle()


@pytest.fixture
def client(running):
    with running.openai() as client:
        yield client


def test_a_batch_from_upload_to_output(running, client):
    lines = [line(number) for number in range(20)] + [line(20, max_tokens=-1), "not json", line(3)]
    batch = create(client, lines, metadata={"for": "a test"})
    assert batch.status in ("validating", "in_progress")
    batch = until(client, batch, "completed")
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (23, 20, 3)
    assert batch.metadata == {"for": "a test"}
    assert batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    answers = contents(client, batch.output_file_id)
    assert sorted(answers) == sorted(f"r{number}" for number in range(20))
    assert all(record["response"]["body"]["usage"]["completion_tokens"] == 5 for record in answers.values())
    errors = [json.loads(text) for text in client.files.content(batch.error_file_id).text.splitlines()]
    assert [record["error"]["line"] for record in errors] == [21, 22, 23]
    assert errors[0]["response"]["status_code"] == 400
    with running.http() as http:
        asked = json.loads(line(7))["body"]
        alone = http.post(COMPLETIONS, json={**asked, "seed": 9}).json()
    assert alone["usage"] == answers["r7"]["response"]["body"]["usage"]


def test_files_are_listed_paged_and_deleted(client):
    files = [upload(client, [line(number)]) for number in range(3)]
    assert [file.id for file in client.files.list()] == [file.id for file in reversed(files)]
    page = client.files.list(limit=2)
    assert page.has_more
    assert len(list(client.files.list(limit=2))) == 3
    assert client.files.retrieve(files[0].id).bytes == len(line(0))
    assert client.files.content(files[0].id).text == line(0)
    assert client.files.delete(files[0].id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(files[0].id)


def test_a_cancelled_batch_keeps_what_was_answered(serving, tmp_path):
    with serving(data_dir=str(tmp_path), executor_delay=0.01) as running, running.openai() as client:
        batch = until(client, create(client, [line(number) for number in range(400)]), "in_progress")
        waiting = create(client, [line(1)])
        while client.batches.retrieve(batch.id).request_counts.completed < 3:
            time.sleep(0.02)
        assert client.batches.cancel(batch.id).status == "cancelling"
        batch = until(client, batch, "cancelled")
        counts = batch.request_counts
        assert 3 <= counts.completed < 400
        assert len(contents(client, batch.output_file_id)) == counts.completed
        with pytest.raises(openai.ConflictError):
            client.batches.cancel(batch.id)
        assert until(client, waiting, "completed").request_counts.completed == 1
        assert [found.id for found in client.batches.list()] == [waiting.id, batch.id]
        running.wait_until_idle()


def test_a_batch_survives_its_server(serving, tmp_path):
    lines = [line(number, temperature=1.0) for number in range(120)]
    with serving(data_dir=str(tmp_path / "one")) as running, running.openai() as client:
        whole = contents(client, until(client, create(client, lines), "completed").output_file_id)
    folder = str(tmp_path / "two")
    with serving(data_dir=folder, executor_delay=0.005) as running, running.openai() as client:
        batch = until(client, create(client, lines), "in_progress")
        while client.batches.retrieve(batch.id).request_counts.completed < 5:
            time.sleep(0.02)
    with serving(data_dir=folder) as running, running.openai() as client:
        batch = until(client, client.batches.retrieve(batch.id), "completed")
        resumed = contents(client, batch.output_file_id)
    assert batch.request_counts.completed == len(resumed) == len(lines)
    for name, record in resumed.items():
        assert record["response"]["body"]["choices"] == whole[name]["response"]["body"]["choices"]


def test_a_server_with_other_settings_does_not_mix_answers(serving, tmp_path):
    lines = [line(number) for number in range(100)]
    with serving(data_dir=str(tmp_path), executor_delay=0.01) as running, running.openai() as client:
        batch = until(client, create(client, lines), "in_progress")
        while client.batches.retrieve(batch.id).request_counts.completed < 3:
            time.sleep(0.02)
    with serving(data_dir=str(tmp_path), engine={"seed": 5}) as running, running.openai() as client:
        batch = until(client, client.batches.retrieve(batch.id), "failed")
        (problem,) = batch.errors.data
        assert "seed" in problem.message
        assert str(tmp_path) not in problem.message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input_file_id"), ({"input_file_id": "file-nothing"}, "input_file_id"), ({"input_file_id": 5}, "input_file_id"),
        ({"endpoint": "/v1/embeddings"}, "endpoint"), ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {str(i): "x" for i in range(17)}}, "metadata"), ({"metadata": {"x" * 65: "x"}}, "metadata"),
        ({"metadata": {"x": 1}}, "metadata"), ({"colour": "red"}, "colour"),
    ],
)  # fmt: skip
def test_bad_batches(running, client, body, param):
    usual = {"input_file_id": upload(client, [line(1)]).id, "endpoint": COMPLETIONS, "completion_window": "24h"}
    answer = running.post("/v1/batches", {**usual, **body} if body else {})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(param)


@pytest.mark.parametrize("data", [b"", b"\n\n"])
def test_a_file_without_requests(client, running, data):
    if not data:
        with pytest.raises(openai.BadRequestError):
            client.files.create(file=("x", data), purpose="batch")
        return
    file = client.files.create(file=("x", data), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=COMPLETIONS, completion_window="24h")
    assert "0 requests" in until(client, batch, "failed").errors.data[0].message


def test_bad_uploads(running, client):
    with running.http() as http:
        assert http.post("/v1/files", json={}).status_code == 415
        assert http.post("/v1/files", data={"purpose": "batch"}, files={"other": b"x"}).status_code == 400
        assert http.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": b"x"}).status_code == 400
        head = {"content-type": "multipart/form-data; boundary=x", "content-length": str(10**9)}
        assert http.post("/v1/files", content=b"--x", headers=head | {"content-length": "3"}).status_code == 400
        answer = http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("../../etc/passwd", b"{}")})
        assert answer.json()["filename"] == "passwd"
        for path in ("/v1/files/..%2f..%2fetc", "/v1/files/nothing/content", "/v1/batches/nothing"):
            assert http.get(path).status_code == 404
        for query in ("limit=0", "limit=x", "limit=101", "after=nothing"):
            assert http.get(f"/v1/batches?{query}").status_code == 400


def test_too_large_an_upload_is_refused_as_it_comes(running, monkeypatch):
    monkeypatch.setattr("orca_jax.server.upload.MAX_FILE_BYTES", 1000)
    monkeypatch.setattr("orca_jax.server.upload.FORM_OVERHEAD", 1000)

    def parts():
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        for _ in range(100):
            yield b"x" * 100

    with running.http() as http:
        answer = http.post("/v1/files", content=parts(), headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 413
    assert "1000 bytes, the most that an upload" in answer.json()["error"]["message"]
    assert not list((running.service.archive.store.folder / "files").iterdir())


FORM = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nxxxx'


def test_an_upload_that_comes_no_further_is_ended_and_a_slow_one_is_not(serving, tmp_path):
    with serving(data_dir=str(tmp_path), body_timeout=0.3) as running:
        host, port = running.address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; "
                               b"boundary=x\r\nContent-Length: 1000\r\n\r\n" + FORM)  # fmt: skip
            assert b" 408 " in connection.recv(65536).split(b"\r\n")[0]

        def slowly():
            yield FORM
            for _ in range(5):
                time.sleep(0.1)
                yield b"x"
            yield b'\r\n--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n'

        with running.http() as http:
            head = {"content-type": "multipart/form-data; boundary=x"}
            assert http.post("/v1/files", content=slowly(), headers=head).json()["bytes"] == 9
        running.wait_until_idle()


def test_a_full_folder_takes_nothing_more_until_something_is_deleted(serving, tmp_path):
    with serving(data_dir=str(tmp_path), max_data_bytes=200_000) as running, running.openai() as client:
        large = ["x" * 60_000]
        files = [upload(client, large)]
        with pytest.raises(openai.InternalServerError, match="--max-data-bytes") as error:
            files.extend(upload(client, large) for _ in range(5))
        assert error.value.status_code == 507
        assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 250_000
        client.files.delete(files[0].id)
        assert upload(client, ["{}"]).id
        (tmp_path / "batches").mkdir(exist_ok=True)
        (tmp_path / "batches" / "partial").write_bytes(b"x" * 200_000)
        with pytest.raises(openai.InternalServerError, match="--max-data-bytes"):
            create(client, ["{}"])


def test_what_nothing_refers_to_is_removed_at_the_start(serving, tmp_path):
    with serving(data_dir=str(tmp_path)) as running, running.openai() as client:
        batch = until(client, create(client, [line(1)]), "completed")
    (tmp_path / "files" / "file-cut-off").write_bytes(b"x")
    left = tmp_path / "batches" / batch.id / "output.jsonl.partial"
    left.write_bytes(b"x")
    with serving(data_dir=str(tmp_path)) as running, running.openai() as client:
        assert not left.exists()
        assert [path.name for path in (tmp_path / "files").iterdir()] == [batch.input_file_id]
        assert list(contents(client, batch.output_file_id)) == ["r1"]


@pytest.mark.parametrize("path", ["/v1/files?colour=red", "/v1/batches?order=asc", "/v1/files?order=up"])
def test_a_query_that_means_nothing_is_refused_by_name(running, path):
    with running.http() as http:
        answer = http.get(path)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] in path


def test_files_in_either_order(running, client):
    files = [upload(client, [line(number)]).id for number in range(3)]
    assert [file.id for file in client.files.list(order="asc", limit=2)] == files
    assert [file.id for file in client.files.list(order="desc")] == files[::-1]


def test_a_file_that_is_read_stays(serving, tmp_path):
    with serving(data_dir=str(tmp_path), executor_delay=0.01) as running, running.openai() as client:
        batch = create(client, [line(number) for number in range(100)])
        with pytest.raises(openai.ConflictError):
            client.files.delete(batch.input_file_id)
        client.batches.cancel(batch.id)
        until(client, batch, "cancelled")
        assert client.files.delete(batch.input_file_id).deleted


def test_without_a_folder_there_are_none(serving):
    with serving() as running, running.http() as http:
        answer = http.get("/v1/files")
        assert answer.status_code == 501
        assert "--data-dir" in answer.json()["error"]["message"]


def test_a_folder_has_one_server(tmp_path):
    first = Store(tmp_path)
    with pytest.raises(BatchError, match="in use by another server"):
        Store(tmp_path)
    first.close()
    Store(tmp_path).close()


def test_an_expired_batch_keeps_what_was_answered(serving, tmp_path):
    with serving(data_dir=str(tmp_path), executor_delay=0.02) as running, running.openai() as client:
        batch = until(client, create(client, [line(number) for number in range(2000)]), "in_progress")
        while client.batches.retrieve(batch.id).request_counts.completed < 3:
            time.sleep(0.02)
        archive = running.service.archive
        archive.worker._expire(*_running(archive))  # what the timer does when the day is over
        batch = until(client, batch, "expired")
        assert 3 <= batch.request_counts.completed < 2000
        assert len(contents(client, batch.output_file_id)) == batch.request_counts.completed


def _running(archive):
    batch_id, runner = archive.worker._running
    return archive.store.known_batch(batch_id), runner


def test_an_engine_that_ends_first_costs_no_batch(serving, tmp_path):
    """As in a drain that is cut off, or where the device fails: the next server goes on."""
    lines = [line(number) for number in range(200)]
    with serving(data_dir=str(tmp_path), executor_delay=0.01) as running, running.openai() as client:
        first = until(client, create(client, lines), "in_progress")
        second = create(client, [line(1)])
        running.service.thread.close()
        running.service.archive.worker._thread.join(PATIENCE)
        states = [running.service.archive.store.known_batch(batch.id).status for batch in (first, second)]
        assert states == ["in_progress", "validating"]
    with serving(data_dir=str(tmp_path)) as running, running.openai() as client:
        assert until(client, client.batches.retrieve(first.id), "completed").request_counts.completed == 200
        until(client, client.batches.retrieve(second.id), "completed")


def test_a_store_that_fails_for_a_while_is_asked_again(serving, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("orca_jax.batch.worker.RETRY_SECONDS", 0.05)
    with serving(data_dir=str(tmp_path)) as running, running.openai() as client:
        store = running.service.archive.store
        failures = iter([True, True, True])
        unfinished = store.unfinished

        def failing():
            if next(failures, False):
                raise BatchError("cannot read or write: the disk is full")
            return unfinished()

        store.unfinished = failing
        until(client, create(client, [line(1)]), "completed")
    assert "the disk is full" in caplog.text


def test_what_waits_for_others_is_cancelled_at_once(serving, tmp_path):
    with serving(data_dir=str(tmp_path), executor_delay=0.02) as running, running.openai() as client:
        first = until(client, create(client, [line(number) for number in range(400)]), "in_progress")
        waiting = create(client, [line(1)])
        assert client.batches.cancel(waiting.id).status == "cancelled"
        client.batches.cancel(first.id)
        until(client, first, "cancelled")


def test_the_folder_is_its_owners_alone(tmp_path):
    Store(tmp_path / "data").close()
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
