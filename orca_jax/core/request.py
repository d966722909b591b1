"""What was asked: validated once, at the door, and frozen from then on."""

from dataclasses import dataclass, field

from orca_jax.core.grammar import Grammar
from orca_jax.core.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and how to continue it, complete: nothing is left to be derived later.

    `params.seed` and `params.max_tokens` are resolved (never None). `prompt` is None when token ids were given.
    `arrival` numbers the requests of an engine; `arrival_time` is the engine's clock in seconds.
    `stop_ids` are the ids that end the answer: the model's end-of-sequence ids (unless `ignore_eos`) and
    `params.stop_token_ids`. `grammar` is what `params.structured_outputs` has been compiled to.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    params: SamplingParams
    arrival: int
    arrival_time: float
    prompt: str | None = None
    stop_ids: tuple[int, ...] = ()
    eos_ids: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    grammar: Grammar | None = field(default=None, compare=False)
