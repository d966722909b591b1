"""The real `openai` package against a running server: every route and option that it knows."""

import asyncio
import json

import openai
import pytest
from pydantic import BaseModel

HELLO = [{"role": "user", "content": "hello"}]
MODEL = "fake"


@pytest.fixture(scope="module")
def client(running):
    with running.openai() as client:
        yield client


def test_models(client):
    (model,) = client.models.list().data
    assert model.id == MODEL
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("nobody/nothing")
    assert error.value.code == "model_not_found"


def test_a_completion_whole_and_streamed(client):
    asked = dict(model=MODEL, prompt="hello", max_tokens=6, seed=4, logprobs=2)
    whole = client.completions.create(**asked)
    chunks = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage == whole.usage
    assert len(whole.choices[0].logprobs.tokens) == whole.usage.completion_tokens


def test_several_prompts_and_answers(client):
    answer = client.completions.create(model=MODEL, prompt=["a", "b", [4, 5]], n=2, max_tokens=3, seed=1, echo=True)
    assert [choice.index for choice in answer.choices] == list(range(6))
    assert answer.choices[0].text.startswith("a")
    assert answer.choices[3].text.startswith("b")


def test_a_chat_whole_and_streamed(client):
    asked = dict(model=MODEL, messages=HELLO, max_completion_tokens=6, seed=4, logprobs=True, top_logprobs=3)
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    texts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(texts) == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert all(len(entry.top_logprobs) == 3 for entry in whole.choices[0].logprobs.content)
    assert bytes(whole.choices[0].logprobs.content[0].bytes)


def test_the_clients_own_stream_helper(client):
    with client.chat.completions.stream(model=MODEL, messages=HELLO, max_tokens=5) as stream:
        events = [event.type for event in stream]
        assert stream.current_completion_snapshot.choices[0].message.content
    assert events.count("content.done") == 1


def test_stops_biases_and_penalties(client):
    first = client.completions.create(model=MODEL, prompt="hello", max_tokens=8, temperature=0, seed=1)
    text = first.choices[0].text
    stop = text[2:4]
    cut = client.completions.create(model=MODEL, prompt="hello", max_tokens=8, temperature=0, seed=1, stop=[stop])
    assert cut.choices[0].text == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    assert client.completions.create(
        model=MODEL, prompt="x", max_tokens=2, logit_bias={"5": 1}, presence_penalty=0.5, frequency_penalty=0.5,
        top_p=0.9, temperature=0.5,
        extra_body={"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.1, "min_tokens": 1, "ignore_eos": True},
    ).choices  # fmt: skip


def test_the_same_seed_gives_the_same_answer_and_none_gives_another(client):
    def texts(**more):
        return [client.completions.create(model=MODEL, prompt="x", max_tokens=8, **more).choices[0].text for _ in "ab"]

    assert len(set(texts(seed=3))) == 1


def test_extras_of_vllm(client):
    extra = {"return_token_ids": True, "request_id": "mine-1", "add_special_tokens": False, "truncate_prompt_tokens": 3}
    answer = client.completions.create(model=MODEL, prompt=list(range(4, 20)), max_tokens=2, extra_body=extra)
    assert answer.id == "cmpl-mine-1"
    assert answer.choices[0].prompt_token_ids == [17, 18, 19]


def test_errors_are_the_clients_own_kinds(client):
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model=MODEL, prompt="x", max_tokens=-1)
    assert error.value.param == "max_tokens"
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model=MODEL, prompt=[5] * 100)
    assert error.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4o", messages=HELLO)
    with pytest.raises(openai.BadRequestError, match="temprature"):
        client.completions.create(model=MODEL, prompt="x", extra_body={"temprature": 1})


def test_the_asynchronous_client_with_many_streams(running):
    async def one(client, number):
        stream = await client.completions.create(
            model=MODEL, prompt=[4 + number], max_tokens=9, stream=True, seed=1, temperature=0
        )
        return "".join([choice.text async for chunk in stream for choice in chunk.choices])

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=f"{running.address}/v1", api_key="x", max_retries=0) as client:
            return await asyncio.gather(*(one(client, number) for number in range(24)))

    texts = asyncio.run(all_of_them())
    with running.openai() as client:
        for number, text in enumerate(texts):
            alone = client.completions.create(model=MODEL, prompt=[4 + number], max_tokens=9, temperature=0, seed=1)
            assert text == alone.choices[0].text
    running.wait_until_idle()


class Lamp(BaseModel):
    on: bool
    level: int


@pytest.fixture(scope="module")
def roomy(serving):
    """Sequences of 512 tokens: the fake's tokens are bytes, and JSON takes many."""
    with serving(engine={"max_model_len": 512}) as running, running.openai() as client:
        yield client


SWITCH = {
    "type": "function",
    "function": {
        "name": "switch",
        "description": "switch the lamp",
        "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"],
                       "additionalProperties": False},
    },
}  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_the_clients_own_models_are_parsed(roomy, seed):
    answer = roomy.chat.completions.parse(
        model=MODEL, messages=HELLO, response_format=Lamp, max_tokens=300, seed=seed, temperature=1
    )
    assert isinstance(answer.choices[0].message.parsed, Lamp)


def test_other_forms(roomy):
    answer = roomy.completions.create(
        model=MODEL, prompt="x", max_tokens=20, extra_body={"structured_outputs": {"choice": ["yes", "no"]}}
    )
    assert answer.choices[0].text in ("yes", "no")
    with pytest.raises(openai.BadRequestError) as error:
        roomy.chat.completions.create(
            model=MODEL, messages=HELLO,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}},
        )  # fmt: skip
    assert error.value.param == "response_format"


def test_tools_are_called_and_answered(roomy):
    asked = dict(model=MODEL, messages=HELLO, tools=[SWITCH], tool_choice="required", max_tokens=300, seed=3)
    asked["parallel_tool_calls"] = False
    whole = roomy.chat.completions.create(**asked).choices[0]
    assert whole.finish_reason == "tool_calls"
    (call,) = whole.message.tool_calls
    assert json.loads(call.function.arguments)["on"] in (True, False)
    chunks = list(roomy.chat.completions.create(**asked, stream=True))
    streamed = [call for chunk in chunks for c in chunk.choices for call in c.delta.tool_calls or []]
    assert [call.function.name for call in streamed] == ["switch"]
    again = roomy.chat.completions.create(
        model=MODEL, tools=[SWITCH], tool_choice="none", max_tokens=3,
        messages=[*HELLO, whole.message, {"role": "tool", "tool_call_id": call.id, "content": "done"}],
    )  # fmt: skip
    assert again.choices[0].message.content is not None
