"""Answers have the shape that OpenAI's own client reads, and hold what the engine said: whole or in chunks."""

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


def strictly(kind, value):
    """The client's own model of the answer; its optional extras (stop_reason, ...) are allowed, wrong types are not."""
    return kind.model_validate(value, strict=False)


def test_a_completion_of_several_prompts_numbers_its_choices_through(desk):
    body = {"prompt": ["abc", [5, 6, 7]], "max_tokens": 3, "n": 2, "seed": 7}
    answer = desk.answer(COMPLETIONS, body)
    strictly(Completion, answer)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["completion_tokens"] == 12
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + 12


@pytest.mark.parametrize(
    "extra", [{}, {"logprobs": 2}, {"echo": True}, {"n": 2, "seed": 1}, {"return_token_ids": True}]
)
def test_the_chunks_of_a_completion_add_up_to_the_answer(desk, extra):
    body = {"prompt": "hello wor", "max_tokens": 8, "seed": 5, **extra}
    whole = desk.answer(COMPLETIONS, body)
    chunks = desk.chunks(COMPLETIONS, {**body, "stream": True, "stream_options": {"include_usage": True}})
    for chunk in chunks:  # the client reads chunks without checking them; its type is that of whole answers
        strictly(Completion, {**chunk, "choices": [{**c, "finish_reason": "stop"} for c in chunk["choices"]]})
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert all(part["system_fingerprint"] is None for part in (whole, *chunks))
    for choice in whole["choices"]:
        mine = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert "".join(c["text"] for c in mine) == choice["text"]
        assert mine[-1]["finish_reason"] == choice["finish_reason"]
        assert [c["finish_reason"] for c in mine[:-1]] == [None] * (len(mine) - 1)
        if "logprobs" in extra:
            for name, values in choice["logprobs"].items():
                assert [value for c in mine for value in c["logprobs"][name]] == values
        if "return_token_ids" in extra:
            assert [token for c in mine for token in c["token_ids"]] == choice["token_ids"]
            assert mine[0]["prompt_token_ids"] == choice["prompt_token_ids"]


def test_offsets_point_into_the_text(desk):
    answer = desk.answer(COMPLETIONS, {"prompt": "hello wor", "max_tokens": 6, "logprobs": 1, "echo": True})
    (choice,) = answer["choices"]
    logprobs = choice["logprobs"]
    assert logprobs["token_logprobs"][0] is None
    assert len(logprobs["tokens"]) == answer["usage"]["total_tokens"]
    for offset, token in zip(logprobs["text_offset"], logprobs["tokens"], strict=True):
        if "\ufffd" not in token:
            assert choice["text"][offset : offset + len(token)] == token
            continue
        break  # behind half a character the text differs from the tokens' own


def test_a_prompt_is_scored_without_an_answer(desk):
    body = {"prompt": "hello", "max_tokens": 0, "echo": True, "logprobs": 1}
    answer = desk.answer(COMPLETIONS, body)
    (choice,) = answer["choices"]
    assert choice["text"] == "hello"
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 0
    assert len(choice["logprobs"]["tokens"]) == answer["usage"]["prompt_tokens"]
    assert all(value is not None for value in choice["logprobs"]["token_logprobs"][1:])


def test_tokens_by_number(desk):
    body = {
        "prompt": "hello",
        "max_tokens": 2,
        "logprobs": 1,
        "return_tokens_as_token_ids": True,
        "return_token_ids": True,
    }
    (choice,) = desk.answer(COMPLETIONS, body)["choices"]
    assert choice["logprobs"]["tokens"] == [f"token_id:{token}" for token in choice["token_ids"]]


@pytest.mark.parametrize("extra", [{}, {"logprobs": True, "top_logprobs": 2}, {"logprobs": True}, {"n": 3, "seed": 2}])
def test_the_chunks_of_a_chat_add_up_to_the_answer(desk, extra):
    body = {"messages": HELLO, "max_completion_tokens": 6, "seed": 3, **extra}
    whole = desk.answer(CHAT, body)
    strictly(ChatCompletion, whole)
    chunks = desk.chunks(CHAT, {**body, "stream": True, "stream_options": {"include_usage": True}})
    for chunk in chunks:
        strictly(ChatCompletionChunk, chunk)
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["usage"] == whole["usage"]
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert all(part["system_fingerprint"] is None for part in (whole, *chunks))
    for choice in whole["choices"]:
        mine = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert "".join(c["delta"].get("content", "") for c in mine) == choice["message"]["content"]
        assert mine[-1]["finish_reason"] == choice["finish_reason"]
        if "logprobs" in extra:
            content = [entry for c in mine if c["logprobs"] for entry in c["logprobs"]["content"]]
            assert content == choice["logprobs"]["content"]
            assert all(len(entry["top_logprobs"]) == extra.get("top_logprobs", 0) for entry in content)


def test_a_chat_without_a_length_has_the_engines_own(desk):
    answer = desk.answer(CHAT, {"messages": HELLO, "ignore_eos": True})
    assert answer["usage"]["completion_tokens"] == 9
    assert desk.answer(CHAT, {"messages": HELLO, "max_tokens": 3, "max_completion_tokens": 4})["usage"][
        "completion_tokens"
    ] in range(1, 5)


def test_only_the_end_of_a_long_prompt(desk):
    tokens = list(range(10, 40))
    body = {"prompt": tokens, "max_tokens": 2, "truncate_prompt_tokens": 4, "return_token_ids": True}
    assert desk.answer(COMPLETIONS, body)["choices"][0]["prompt_token_ids"] == tokens[-4:]
    everything = desk.answer(COMPLETIONS, {**body, "prompt": tokens * 9, "truncate_prompt_tokens": -1})
    assert everything["usage"]["total_tokens"] == 64, "the context of this engine"


def test_no_usage_where_none_was_asked_for(desk):
    for url, body in ((COMPLETIONS, {"prompt": "a"}), (CHAT, {"messages": HELLO})):
        assert all("usage" not in chunk for chunk in desk.chunks(url, {**body, "max_tokens": 2, "stream": True}))


def test_usage_on_every_chunk(desk):
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = desk.chunks(COMPLETIONS, {"prompt": "a", "max_tokens": 3, "stream": True, "stream_options": options})
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == chunks[-2]["usage"]["completion_tokens"]
