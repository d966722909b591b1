"""Log-probabilities of prompts and answers against the dense oracle, prompts whole or in chunks."""

import jax
import numpy as np
import pytest

from orca_jax.testing import oracle
from orca_jax.testing.requests import make_request
from orca_jax.testing.serving import Company, new_engine

ROWS, PAGE, LENGTH = 4, 4, 64  # as the executors of conftest.py were made


def outputs_of(executor, company, requests):
    engine = new_engine(executor, company, num_pages=ROWS * LENGTH // PAGE, page_size=PAGE, num_slots=2 * ROWS)
    for request in requests:
        engine.add_request(request)
    done = {}
    while engine.has_unfinished:
        done |= {output.request_id: output for output in engine.step() if output.finished}
    return done


@pytest.mark.parametrize("budget", [3, 16])
def test_they_are_the_log_softmax_of_the_raw_logits(float32_executor, model_of, budget):
    forward = oracle.compiled(model_of("llama"))
    requests = [
        make_request(range(1, 12), 6, arrival=0, logprobs=3, prompt_logprobs=2),
        make_request(range(20, 41), 6, arrival=1, prompt_logprobs=0, temperature=0.7, seed=5),
        make_request([9], 6, arrival=2, logprobs=0, prompt_logprobs=5),
        make_request(range(1, 6), 6, arrival=3),
    ]
    done = outputs_of(float32_executor, Company(budget=budget), requests)
    for request in requests:
        output = done[request.request_id]
        tokens = [*request.prompt_token_ids, *output.outputs[0].token_ids]
        padded = np.zeros(LENGTH, np.int32)
        padded[: len(tokens)] = tokens
        expected = np.asarray(jax.nn.log_softmax(forward(padded), axis=-1))
        start = len(request.prompt_token_ids)
        if request.params.prompt_logprobs is None:
            assert output.prompt_logprobs is None
        else:
            assert len(output.prompt_logprobs) == start and output.prompt_logprobs[0] is None
            for i in range(1, start):
                check(output.prompt_logprobs[i], tokens[i], expected[i - 1], request.params.prompt_logprobs)
        if request.params.logprobs is None:
            assert output.outputs[0].logprobs is None
        else:
            for i, entry in enumerate(output.outputs[0].logprobs):
                check(entry, tokens[start + i], expected[start + i - 1], request.params.logprobs)


def check(entry, token, expected, count):
    best = set(np.argsort(-expected, kind="stable")[:count].tolist())
    assert set(entry) == best | {token}
    for candidate, logprob in entry.items():
        assert logprob.logprob == pytest.approx(expected[candidate], abs=1e-3)
        assert logprob.rank == 1 + int((expected > expected[candidate]).sum())
