"""What a sequence tells the device of its request."""

from orca_jax.core.sequence import Sequence
from orca_jax.testing.requests import make_request


def test_the_prompt_is_scored_once_whatever_n_is():
    request = make_request(3, n=3, prompt_logprobs=2, logprobs=1)
    samplings = [Sequence(request, index).sampling() for index in range(3)]
    assert [s.prompt_logprobs for s in samplings] == [2, None, None]
    assert [(s.index, s.logprobs) for s in samplings] == [(0, 1), (1, 1), (2, 1)]
