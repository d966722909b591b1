"""Requests as the door would make them, in one line, for tests that start behind it."""

from collections.abc import Sequence
from typing import Any

from orca_jax.core.request import Request
from orca_jax.core.sampling_params import SamplingParams


def make_request(
    prompt: Sequence[int] | int,
    max_tokens: int = 8,
    *,
    request_id: str | None = None,
    arrival: int = 0,
    arrival_time: float = 0.0,
    eos_ids: tuple[int, ...] = (0,),
    bad_words: tuple[tuple[int, ...], ...] = (),
    **params: Any,
) -> Request:
    """A complete request for `prompt` (token ids, or how many: then 1, 2, 3, ...). `params` as in `SamplingParams`.

    The id is the arrival number unless given. Greedy by default; for `n > 1`, which greedy answers cannot have, at
    temperature 1. `ignore_eos` leaves `eos_ids` out. `bad_words` are token ids, as the door makes them.
    """
    tokens = tuple(range(1, prompt + 1)) if isinstance(prompt, int) else tuple(prompt)
    settings = {"temperature": 1.0 if params.get("n", 1) > 1 else 0.0, "seed": 0, "detokenize": False, **params}
    sampling = SamplingParams(max_tokens=max_tokens, **settings)
    ends = () if sampling.ignore_eos else eos_ids
    return Request(
        request_id=str(arrival) if request_id is None else request_id,
        prompt_token_ids=tokens,
        params=sampling,
        arrival=arrival,
        arrival_time=arrival_time,
        stop_ids=tuple(dict.fromkeys((*ends, *(sampling.stop_token_ids or ())))),
        eos_ids=ends,
        bad_words=bad_words,
    )
