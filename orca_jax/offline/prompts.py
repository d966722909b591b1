"""Which prompt goes with which parameters: the list forms of `generate` and `chat`, before the door sees a prompt."""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, TypeAlias

from orca_jax.core.checks import shown
from orca_jax.core.errors import RequestError
from orca_jax.core.sampling_params import SamplingParams
from orca_jax.engine.door import Prompt

Message: TypeAlias = Mapping[str, Any]
Conversation: TypeAlias = Sequence[Message]


def as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or many as a list. A flat list of integers is one prompt of token ids."""
    if isinstance(prompts, str | Mapping):
        return [prompts]
    if not isinstance(prompts, Sequence):
        raise RequestError(f"prompts must be a prompt or a list of prompts, got {shown(prompts)}.", "prompts")
    if prompts and all(isinstance(item, Integral) for item in prompts):
        return [prompts]  # type: ignore[list-item]  # a Sequence[int], as was just checked
    return list(prompts)  # type: ignore[arg-type]


def as_conversations(messages: Conversation | Sequence[Conversation]) -> list[Conversation]:
    """One conversation (a list of messages) or many as a list."""
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise RequestError(f"messages must be a list of messages, got {shown(messages)}.", "messages")
    if messages and all(isinstance(item, Mapping) for item in messages):
        return [messages]  # type: ignore[list-item]
    if not messages:
        raise RequestError("messages must hold at least one message, got an empty list.", "messages")
    return list(messages)  # type: ignore[arg-type]


def params_for_each(
    sampling_params: SamplingParams | Sequence[SamplingParams] | None, count: int, default: SamplingParams
) -> list[SamplingParams]:
    """One set of parameters for each of `count` prompts: `default`, the one given for all, or the list given."""
    if sampling_params is None:
        return [default] * count
    if isinstance(sampling_params, SamplingParams):
        return [sampling_params] * count
    if not isinstance(sampling_params, Sequence):
        raise RequestError(
            f"sampling_params must be SamplingParams or a list of them, got {shown(sampling_params)}.",
            "sampling_params",
        )
    if len(sampling_params) != count:
        raise RequestError(
            f"sampling_params has {len(sampling_params)} entries for {count} prompts: give one each, or one for all.",
            "sampling_params",
        )
    for params in sampling_params:
        if not isinstance(params, SamplingParams):
            raise RequestError(f"sampling_params must hold SamplingParams, got {shown(params)}.", "sampling_params")
    return list(sampling_params)
