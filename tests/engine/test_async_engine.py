"""Streams over the engine's thread: complete whatever the reader's pace, ended when the reader goes."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_jax.core.errors import EngineError
from orca_jax.core.outputs import CompletionOutput, Logprob, RequestOutput, merged
from orca_jax.core.sampling_params import RequestOutputKind
from orca_jax.engine.async_engine import AsyncEngine
from orca_jax.engine.thread import EngineThread
from orca_jax.testing.fake_executor import FakeExecutor
from orca_jax.testing.requests import make_request

DELTA = RequestOutputKind.DELTA


class SlowExecutor(FakeExecutor):
    def collect(self):
        time.sleep(0.002)
        return super().collect()


@pytest.fixture
def thread(make_engine):
    with EngineThread(make_engine(num_pages=4096, executor_type=SlowExecutor)) as thread:
        yield thread


def requests_of(*names, max_tokens=12, kind=DELTA, **params):
    return [
        make_request(3, max_tokens, request_id=name, arrival=number, output_kind=kind, **params)
        for number, name in enumerate(names)
    ]


async def read(stream, pause=0.0):
    tokens, outputs = {}, []
    async for output in stream:
        outputs.append(output)
        for answer in output.outputs:
            tokens.setdefault((output.request_id, answer.index), []).extend(answer.token_ids)
        await asyncio.sleep(pause)
    return tokens, outputs


def test_a_slow_reader_gets_the_same_tokens_in_fewer_outputs(thread):
    async def both():
        engine = AsyncEngine(thread)
        async with engine.stream(requests_of("fast", "too")) as stream:
            fast, many = await read(stream)
        async with engine.stream(requests_of("fast", "too")) as stream:
            slow, few = await read(stream, pause=0.02)
        return fast, many, slow, few

    fast, many, slow, few = asyncio.run(both())
    assert fast == slow
    assert len(few) < len(many)
    assert [output.finished for output in few].count(True) == 2


def test_generate_gives_the_ends_in_the_order_of_the_requests(thread):
    async def ends():
        return await AsyncEngine(thread).generate(
            requests_of("b", "a", kind=RequestOutputKind.FINAL_ONLY) + requests_of("c", max_tokens=1)
        )

    outputs = asyncio.run(ends())
    assert [output.request_id for output in outputs] == ["b", "a", "c"]
    assert all(output.finished for output in outputs)


def test_leaving_the_block_ends_what_runs(thread):
    async def leave():
        async with AsyncEngine(thread).stream(requests_of("long", max_tokens=2000)) as stream:
            async for _ in stream:
                break

    asyncio.run(leave())
    deadline = time.monotonic() + 30
    while thread.call(lambda engine: engine.has_unfinished).result(30):
        assert time.monotonic() < deadline
    assert thread.call(lambda engine: engine.scheduler.kv.pages_reserved).result(30) == 0


def test_a_cancelled_generate_ends_its_requests(thread):
    async def cancel():
        engine = AsyncEngine(thread)
        task = asyncio.create_task(engine.generate(requests_of("long", max_tokens=2000)))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    deadline = time.monotonic() + 30
    while thread.call(lambda engine: engine.has_unfinished).result(30):
        assert time.monotonic() < deadline


def test_a_closed_engine_takes_nothing(make_engine):
    thread = EngineThread(make_engine())
    thread.close()

    async def start():
        AsyncEngine(thread).stream(requests_of("a"))

    with pytest.raises(EngineError, match="closed"):
        asyncio.run(start())


@given(parts=st.lists(st.tuples(st.integers(0, 1), st.lists(st.integers(0, 9), max_size=3)), min_size=1, max_size=8))
def test_merging_deltas_loses_and_repeats_nothing(parts):
    def delta(index, tokens, last):
        answer = CompletionOutput(
            index, "".join(map(str, tokens)), tokens, logprobs=[{token: Logprob(-1.0)} for token in tokens]
        )
        return RequestOutput(
            "r", None, [1], [answer], finished=last, delta=True, prompt_logprobs=[None] if tokens else None
        )

    outputs = [delta(index, tokens, number == len(parts) - 1) for number, (index, tokens) in enumerate(parts)]
    whole = outputs[0]
    for output in outputs[1:]:
        whole = merged(whole, output)
    assert whole.finished
    for answer in whole.outputs:
        expected = [token for index, tokens in parts if index == answer.index for token in tokens]
        assert answer.token_ids == expected
        assert answer.text == "".join(map(str, expected))
        assert answer.logprobs == [{token: Logprob(-1.0)} for token in expected]
    assert {answer.index for answer in whole.outputs} == {index for index, _ in parts}
    assert len(whole.prompt_logprobs or []) == sum(1 for _, tokens in parts if tokens)
