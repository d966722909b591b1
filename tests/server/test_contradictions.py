"""A request that leaves itself nothing to choose is its client's mistake, however late that shows."""

import json

import pytest

ASKED = {"model": "fake", "prompt": "x"}


@pytest.mark.parametrize("more", [{"allowed_token_ids": [300]}, {"bad_words": ["hello", "h", "he", "hel"]}])
def test_what_cannot_begin_is_refused_at_the_door(running, more):
    begun = running.engine(lambda engine: engine.statistics()["iterations"])
    answer = running.post("/v1/completions", {**ASKED, "structured_outputs": {"choice": ["hello"]}, **more})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "structured_outputs"
    assert running.engine(lambda engine: engine.statistics()["iterations"]) == begun


@pytest.mark.parametrize(
    "form", [{"structured_outputs": {"choice": ["{x"]}}, {"response_format": {"type": "json_object"}}]
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_go_on_is_a_400_or_an_event_that_says_so_without_a_trace(running, caplog, stream, form):
    (brace,) = running.service.tokenizer.encode("{", False)
    answer = running.post("/v1/completions", {**ASKED, "stream": stream, "allowed_token_ids": [brace], **form})
    body = answer.text
    if stream:
        *_, body, done = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
        assert done == "[DONE]"
    assert answer.status_code == (200 if stream else 400)
    error = json.loads(body)["error"]
    assert error["type"] == "invalid_request_error" and error["param"] == (name := next(iter(form)))
    assert error["message"] == f"{name} and allowed_token_ids have left no token to go on with."
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]
    running.wait_until_idle()
