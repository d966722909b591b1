"""How a request wants its tokens chosen and its answer ended, under the names and ranges that vLLM's users know."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from orca_jax.core import checks
from orca_jax.core.errors import RequestError
from orca_jax.core.naming import refuses_unknown_names
from orca_jax.core.structured_outputs import StructuredOutputsParams

logger = logging.getLogger(__name__)

GREEDY_BELOW = 1e-5
LEAST_TEMPERATURE = 1e-2
MAX_N = 16384
MAX_LOGPROBS = 20  # what the sampler reports from the device; more would be a copy of the vocabulary per token
MAX_STOP_STRINGS = 64
MAX_STOP_LENGTH = 1024
MAX_STOP_TOKEN_IDS = 1024
MAX_STOP_IDS = MAX_STOP_TOKEN_IDS + 64  # a request's own and the model's ends, as the device holds them
MAX_LOGIT_BIAS = 1024
MAX_ALLOWED_TOKEN_IDS = 2**20
MAX_BAD_WORDS = 128
MAX_BAD_WORD_LENGTH = 256
MAX_BAD_WORD_TOKENS = 16  # what the device compares with the end of a sequence

UNSUPPORTED = {
    "best_of": "ask for n answers and choose among them by cumulative_logprob",
    "use_beam_search": "beam search is not implemented",
    "length_penalty": "beam search is not implemented",
    "early_stopping": "beam search is not implemented",
    "logits_processors": "no code runs inside the step; see logit_bias, allowed_token_ids and bad_words",
    "guided_decoding": "say structured_outputs",
    "thinking_token_budget": "",
    "repetition_detection": "",
    "watermarking": "",
    "flat_logprobs": "log-probabilities always come as a list of dicts",
    "logprob_token_ids": "ask for logprobs, the most likely tokens",
    "prompt_logprob_token_ids": "ask for prompt_logprobs, the most likely tokens",
    "prompt_logprob_start": "prompt_logprobs cover the whole prompt",
    "trace_decode_token_ids": "",
    "routed_experts_prompt_start": "",
    "truncate_prompt_tokens": "shorten the prompt before it is sent",
    "stream_interval": "every iteration that brings text is reported",
    "skip_reading_prefix_cache": "there is no prefix cache",
    "extra_args": "",
}


class RequestOutputKind(Enum):
    """What each output of a request holds: all so far, what is new since the last one, or only the end."""

    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@refuses_unknown_names(UNSUPPORTED)
@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Validated on construction; every violation is a `RequestError` whose `parameter` names the field.

    n: answers per prompt. temperature: 0 (anything below 1e-5) is greedy; below 1e-2 is raised to it, with a warning
    in the log. top_k: 0 or -1 is off. max_tokens: None means to the end of the context. logprobs, prompt_logprobs:
    how many of the most likely tokens to report, 0 to 20 (0 reports the token itself). seed: 64 bits, signed; None
    or -1 lets the engine derive one. stop: strings, kept out of the text unless `include_stop_str_in_output`.
    logit_bias: token id to a number, clamped to [-100, 100]. structured_outputs: the form that the answer must have,
    as an object or a dict of the same names. Lists are stored as tuples without duplicates.
    What depends on the model's vocabulary is checked by `verify`.
    """

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | Sequence[str] | None = ()
    stop_token_ids: Sequence[int] | None = ()
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    logit_bias: Mapping[int, float] | None = field(default=None, hash=False)
    allowed_token_ids: Sequence[int] | None = None
    bad_words: Sequence[str] | None = ()
    structured_outputs: StructuredOutputsParams | Mapping[str, object] | None = None

    def __post_init__(self) -> None:
        self._check_flags()
        self._check_choice()
        self._check_temperature()
        self._check_lengths()
        self._check_logprobs()
        self._check_stops()
        self._check_vocabulary_lists()
        if self.structured_outputs is not None:
            self._store("structured_outputs", StructuredOutputsParams.of(self.structured_outputs))

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0

    def verify(self, vocab_size: int) -> None:
        """Refuse token ids that a vocabulary of `vocab_size` does not hold."""
        checks.in_vocabulary("stop_token_ids", self.stop_token_ids or (), vocab_size)
        checks.in_vocabulary("logit_bias", self.logit_bias or (), vocab_size)
        checks.in_vocabulary("allowed_token_ids", self.allowed_token_ids or (), vocab_size)

    def _store(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the normalised form; frozen for everybody else

    def _check_flags(self) -> None:
        for name in ("ignore_eos", "detokenize", "skip_special_tokens", "spaces_between_special_tokens",
                     "include_stop_str_in_output"):  # fmt: skip
            checks.flag(name, getattr(self, name))
        if not isinstance(self.output_kind, RequestOutputKind):
            kinds = ", ".join(str(kind) for kind in RequestOutputKind)
            raise RequestError(
                f"output_kind must be one of {kinds}, got {checks.shown(self.output_kind)}.", "output_kind"
            )

    def _check_choice(self) -> None:
        """Penalties, top-p, top-k, min-p and the seed."""
        for name in ("presence_penalty", "frequency_penalty"):
            self._store(name, checks.within(name, getattr(self, name), -2.0, 2.0))
        self._store("repetition_penalty", checks.finite("repetition_penalty", self.repetition_penalty))
        if self.repetition_penalty <= 0.0:
            raise RequestError(
                f"repetition_penalty must be greater than zero, got {self.repetition_penalty:g}.", "repetition_penalty"
            )
        self._store("top_p", checks.finite("top_p", self.top_p))
        if not 0.0 < self.top_p <= 1.0:
            raise RequestError(f"top_p must be in (0, 1], got {self.top_p:g}.", "top_p")
        top_k = checks.integer("top_k", self.top_k)
        if top_k < -1:
            raise RequestError(f"top_k must be 0 (disable), or at least 1, got {checks.shown(top_k)}.", "top_k")
        # Larger than any vocabulary means the whole of it, whatever the number.
        self._store("top_k", 0 if top_k == -1 else min(top_k, checks.MAX_INT))
        self._store("min_p", checks.within("min_p", self.min_p, 0.0, 1.0))
        if self.seed is not None:
            seed = checks.bounded("seed", self.seed, -(2**63), 2**63 - 1)
            self._store("seed", None if seed == -1 else seed)

    def _check_temperature(self) -> None:
        self._store("n", checks.bounded("n", self.n, 1, MAX_N))
        temperature = checks.within("temperature", self.temperature, 0.0, 2.0)
        if GREEDY_BELOW <= temperature < LEAST_TEMPERATURE:
            logger.warning(
                "temperature %g is below %g, where float32 logits overflow; it is raised to %g",
                temperature, LEAST_TEMPERATURE, LEAST_TEMPERATURE,
            )  # fmt: skip
            temperature = LEAST_TEMPERATURE
        if temperature < GREEDY_BELOW:
            if self.n > 1:
                raise RequestError(f"n must be 1 when using greedy sampling, got {self.n}.", "n")
            temperature = 0.0
            self._store("top_p", 1.0)
            self._store("top_k", 0)
            self._store("min_p", 0.0)
        self._store("temperature", temperature)

    def _check_lengths(self) -> None:
        if self.max_tokens is not None:
            self._store("max_tokens", checks.bounded("max_tokens", self.max_tokens, 1))
        self._store("min_tokens", checks.bounded("min_tokens", self.min_tokens, 0))
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise RequestError(
                f"min_tokens must be less than or equal to max_tokens={self.max_tokens}, got {self.min_tokens}.",
                "min_tokens",
            )

    def _check_logprobs(self) -> None:
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            if value is None:
                continue
            if checks.integer(name, value) == -1:
                raise RequestError(
                    f"{name}=-1 (the whole vocabulary) is not supported; at most {MAX_LOGPROBS} are reported.", name
                )
            self._store(name, checks.bounded(name, value, 0, MAX_LOGPROBS))

    def _check_stops(self) -> None:
        stop = () if self.stop is None else self.stop
        self._store("stop", checks.strings("stop", stop, MAX_STOP_STRINGS, MAX_STOP_LENGTH))
        if self.stop and not self.detokenize:
            raise RequestError(
                "stop strings are only supported when detokenize is True. Set detokenize=True to use stop.", "stop"
            )
        ids = () if self.stop_token_ids is None else self.stop_token_ids
        self._store("stop_token_ids", checks.token_ids("stop_token_ids", ids, MAX_STOP_TOKEN_IDS))

    def _check_vocabulary_lists(self) -> None:
        if self.logit_bias is not None:
            self._store("logit_bias", _clamped(self.logit_bias))
        if self.allowed_token_ids is not None:
            allowed = checks.token_ids("allowed_token_ids", self.allowed_token_ids, MAX_ALLOWED_TOKEN_IDS)
            if not allowed:
                raise RequestError("allowed_token_ids is not None and empty!", "allowed_token_ids")
            self._store("allowed_token_ids", allowed)
        words = () if self.bad_words is None else self.bad_words
        self._store("bad_words", checks.strings("bad_words", words, MAX_BAD_WORDS, MAX_BAD_WORD_LENGTH))


def _clamped(bias: object) -> dict[int, float]:
    """Token id to bias in [-100, 100]. Keys may be text, as JSON has no other."""
    if not isinstance(bias, Mapping):
        raise RequestError(f"logit_bias must map token ids to numbers, got {checks.shown(bias)}.", "logit_bias")
    if len(bias) > MAX_LOGIT_BIAS:
        raise RequestError(f"logit_bias must have at most {MAX_LOGIT_BIAS} entries, got {len(bias)}.", "logit_bias")
    result = {}
    for key, value in bias.items():
        if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= 10:
            key = int(key)
        token = checks.entry("logit_bias", "key", key)
        result[token] = min(100.0, max(-100.0, checks.finite("logit_bias", value)))
    return result
