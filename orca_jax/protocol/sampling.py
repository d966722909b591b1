"""The fields that completions and chats share, and what they mean to the engine."""

from typing import Annotated, Any

from pydantic import Field

from orca_jax.core import checks
from orca_jax.core.errors import RequestError
from orca_jax.core.sampling_params import RequestOutputKind, SamplingParams
from orca_jax.core.unsupported import Neutral
from orca_jax.protocol.body import Body
from orca_jax.protocol.form import asked_form

MAX_REQUEST_ID = 128
MAX_STOP = 4  # OpenAI's bound, and vLLM's
NO_STREAM = "Stream options can only be defined when `stream=True`."


def documented(**bounds: int) -> Any:
    """Bounds for the OpenAPI document; `SamplingParams` holds to them, and says so in better words than pydantic's."""
    return Field(json_schema_extra=dict(bounds))


Temperature = Annotated[float, documented(minimum=0, maximum=2)]
Penalty = Annotated[float, documented(minimum=-2, maximum=2)]
Share = Annotated[float, documented(minimum=0, maximum=1)]
Positive = Annotated[int, documented(minimum=1)]
Natural = Annotated[int, documented(minimum=0)]
Seed = Annotated[int, documented(minimum=-(2**63), maximum=2**63 - 1)]

# What clients of OpenAI and of other engines may send, each with the values that ask for nothing.
REFUSED: Neutral = {
    "best_of": (None,),
    "cache_salt": (None,),
    "documents": (None,),
    "guided_choice": (None,),
    "guided_grammar": (None,),
    "guided_json": (None,),
    "guided_regex": (None,),
    "length_penalty": (None, 1.0, 1),
    "logits_processors": (None,),
    "lora_request": (None,),
    "metadata": (None,),
    "mm_processor_kwargs": (None,),
    "modalities": (None,),
    "prediction": (None,),
    "priority": (None, 0),
    "prompt_cache_key": (None,),
    "prompt_embeds": (None,),
    "reasoning_effort": (None,),
    "safety_identifier": (None,),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "thinking_token_budget": (None,),
    "use_beam_search": (None, False),
    "user": (None,),
    "verbosity": (None,),
    "vllm_xargs": (None,),
    "web_search_options": (None,),
}


class StreamOptions(Body):
    """What a stream reports besides the answer."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class SamplingBody(Body):
    """OpenAI's fields that both kinds of calls have, and vLLM's beside them. Ranges are those of `SamplingParams`."""

    model: str | None = Field(default=None, description="the served model's name, as /v1/models lists it")
    n: Positive | None = 1
    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: int | None = None
    min_p: Share | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: float | None = None
    seed: Seed | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[Natural] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: Natural | None = None
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    logit_bias: dict[str, float] | None = None
    allowed_token_ids: list[Natural] | None = None
    bad_words: list[str] | None = None
    prompt_logprobs: Natural | None = None
    response_format: dict[str, Any] | None = Field(
        default=None, description="the form of the answer: type text, json_object or json_schema"
    )
    structured_outputs: dict[str, Any] | None = Field(
        default=None, description="the form of the answer: one of json, regex, choice, grammar (Lark) and json_object"
    )
    truncate_prompt_tokens: int | None = Field(
        default=None, description="keep only so many of the prompt's last tokens; -1 keeps what the context can hold"
    )
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    request_id: str | None = Field(
        default=None, description="becomes part of the answer's id", json_schema_extra={"pattern": "^[!-~]{1,128}$"}
    )
    return_token_ids: bool | None = False
    return_tokens_as_token_ids: bool | None = False

    def sampling(self, **more: Any) -> SamplingParams:
        """The parameters for the engine; `more` is what the kind of call adds, `form` the form it imposes.

        Raises RequestError.
        """
        self._check_together()
        form = more.pop("form", None) or asked_form(self.response_format, self.structured_outputs)
        same = ("n", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty",
                "repetition_penalty", "seed", "stop", "stop_token_ids", "min_tokens", "logit_bias", "allowed_token_ids",
                "bad_words", "prompt_logprobs")  # fmt: skip
        given = {name: value for name in same if (value := getattr(self, name)) is not None}
        return SamplingParams(
            **given,
            structured_outputs=form,
            include_stop_str_in_output=self.include_stop_str_in_output,
            ignore_eos=self.ignore_eos,
            skip_special_tokens=self.skip_special_tokens,
            spaces_between_special_tokens=self.spaces_between_special_tokens,
            output_kind=RequestOutputKind.DELTA if self.stream else RequestOutputKind.FINAL_ONLY,
            **more,
        )

    def _check_together(self) -> None:
        if self.stream_options is not None and not self.stream:
            raise RequestError(NO_STREAM, "stream_options")
        if self.stream and self.prompt_logprobs is not None:
            raise RequestError("`prompt_logprobs` are not available when `stream=True`.", "prompt_logprobs")
        if isinstance(self.stop, list) and len(self.stop) > MAX_STOP:
            raise RequestError(f"stop must have at most {MAX_STOP} entries, got {len(self.stop)}.", "stop")
        if self.request_id is not None:
            check_request_id(self.request_id)


def check_request_id(value: str) -> None:
    """Printable ASCII of a bounded length, without spaces: it goes into headers, answers, logs and pictures."""
    if not (0 < len(value) <= MAX_REQUEST_ID and value.isascii() and value.isprintable() and " " not in value):
        raise RequestError(
            f"request_id must be 1 to {MAX_REQUEST_ID} printable ASCII characters without spaces, got {checks.shown(value)}.",
            "request_id",
        )
