"""Every bad field of tests/protocol/test_refusals.py over HTTP, and after each an ordinary request that is as usual."""

import pytest

from tests.protocol.test_refusals import BAD_CHATS, BAD_COMPLETIONS, CHAT, COMPLETIONS, HELLO

ORDINARY = {"model": "fake", "prompt": "hello", "max_tokens": 4, "seed": 1}


@pytest.mark.parametrize(
    ("url", "usual", "rows"),
    [(COMPLETIONS, {"prompt": "hello"}, BAD_COMPLETIONS), (CHAT, {"messages": HELLO}, BAD_CHATS)],
    ids=["completions", "chats"],
)
def test_rows_10_to_37_over_http(serving, url, usual, rows):
    with serving(trust_request_chat_template=True) as running, running.http() as http:
        choices = http.post(COMPLETIONS, json=ORDINARY).json()["choices"]
        for fields, name in rows:
            answer = http.post(url, json={"model": "fake", **usual, **fields})
            row = repr(fields)[:80]
            assert answer.status_code == 400, row
            error = answer.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}, row
            assert str(error["param"]).startswith(name), row
            assert len(answer.content) < 1000, row
            assert http.post(COMPLETIONS, json=ORDINARY).json()["choices"] == choices, row
        assert http.get("/health").status_code == 200
        running.wait_until_idle()
