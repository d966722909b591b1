"""Pages of other sites: a browser that can reach the server does nothing there on their behalf."""

import pytest

PATH = "/v1/completions"
SHORT = {"model": "fake", "prompt": "hello", "max_tokens": 2, "seed": 1}
EVIL = "https://evil.example"


@pytest.fixture(scope="module")
def running(serving, tmp_path_factory):
    with serving(data_dir=str(tmp_path_factory.mktemp("data"))) as running:
        yield running


def refused(answer, code):
    assert answer.status_code == 403, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code


@pytest.mark.parametrize("origin", [EVIL, "null", "", "http://localhost:1", "http://127.0.0.1.evil.example"])
def test_no_page_of_another_site_uploads_or_deletes(running, origin):
    with running.http(headers={"origin": origin}) as http:
        refused(http.post("/v1/files", data={"purpose": "batch"}, files={"file": b"{}"}), "origin_not_allowed")
        refused(http.delete("/v1/files/file-1"), "origin_not_allowed")
        refused(http.post(PATH, json=SHORT), "origin_not_allowed")
        assert http.get("/v1/files").json()["data"] == []


def test_the_servers_own_pages_and_programs_may(running):
    assert running.post(PATH, SHORT).status_code == 200
    assert running.post(PATH, SHORT, headers={"origin": running.address}).status_code == 200
    port = running.address.rsplit(":", 1)[1]
    for name in (f"localhost:{port}", f"[::1]:{port}", "LOCALHOST", "127.0.0.1"):
        headers = {"host": name, "origin": f"http://{name.lower()}"}
        assert running.post(PATH, SHORT, headers=headers).status_code == 200, name


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "", "x@localhost", "[::2]"]
)
def test_a_name_that_is_not_this_machines_reaches_nothing(running, host):
    with running.http(headers={"host": host}) as http:
        for path in ("/", "/live", "/metrics", "/v1/models", "/v1/files", "/nothing"):
            refused(http.get(path), "host_not_allowed")
        refused(http.post(PATH, json=SHORT), "host_not_allowed")
        refused(http.options(PATH), "host_not_allowed")
        assert http.get("/health").status_code == 200


def test_allowed_sites_may_and_lend_their_name(serving):
    with serving(allowed_origins="https://good.example") as running:
        assert running.post(PATH, SHORT, headers={"origin": "https://good.example"}).status_code == 200
        assert running.post(PATH, SHORT, headers={"origin": "https://good.example:443"}).status_code == 200
        assert running.post(PATH, SHORT, headers={"host": "good.example"}).status_code == 200
        refused(running.post(PATH, SHORT, headers={"origin": "http://good.example"}), "origin_not_allowed")
        refused(running.post(PATH, SHORT, headers={"origin": EVIL}), "origin_not_allowed")
    with serving(allowed_origins="*") as running:
        assert running.post(PATH, SHORT, headers={"origin": EVIL, "host": "any.example"}).status_code == 200


def test_with_a_key_any_name_will_do_and_the_origin_counts_still(serving):
    with serving(api_key="a-long-enough-key") as running:
        headers = {"authorization": "Bearer a-long-enough-key", "host": "llm.example"}
        assert running.post(PATH, SHORT, headers=headers).status_code == 200
        assert running.post(PATH, SHORT, headers={**headers, "origin": "http://llm.example"}).status_code == 200
        refused(running.post(PATH, SHORT, headers={**headers, "origin": EVIL}), "origin_not_allowed")
