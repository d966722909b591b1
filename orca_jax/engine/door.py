"""The door: whatever a client sends becomes a frozen `Request`, complete and servable, or one clear refusal."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from orca_jax.core import checks
from orca_jax.core.errors import ContextLengthError, RequestError
from orca_jax.core.grammar import Grammar
from orca_jax.core.naming import check_names
from orca_jax.core.request import Request
from orca_jax.core.sampling_params import MAX_LOGPROBS, MAX_STOP_IDS, SamplingParams
from orca_jax.core.structured_outputs import StructuredOutputsParams
from orca_jax.grammar.compiler import GrammarCompiler
from orca_jax.text.bad_words import bad_word_ids
from orca_jax.text.tokenizer import Tokenizer

Prompt = str | Mapping[str, Any] | Sequence[int]

NO_TOKENIZER = "This engine has no tokenizer (skip_tokenizer_init): give prompt_token_ids."
PROMPT_KEYS = ("prompt", "prompt_token_ids")
UNSUPPORTED_PROMPT_KEYS = {
    "prompt_embeds": "give text or token ids",
    "multi_modal_data": "only text models are served",
    "mm_processor_kwargs": "only text models are served",
    "multi_modal_uuids": "only text models are served",
    "encoder_prompt": "encoder-decoder models are not served",
    "decoder_prompt": "encoder-decoder models are not served",
    "token_type_ids": "",
    "cache_salt": "there is no prefix cache",
}


class Door:
    """Checks and completes requests. Holds no state, so threads may share it.

    vocab_size: rows of the model's embedding, the bound of every token id. max_model_len: most tokens of one sequence,
    prompt and answer together. max_total_tokens: what the K/V pool holds, in whole pages of `page_size` tokens; the
    `n` sequences of a request reserve for prompt and answer each. eos_ids: the model's end-of-sequence ids. seed: the
    engine's, from which requests without one get theirs. max_logprobs: most that a request may ask for.
    default_max_tokens: what a chat has where it does not say, for those who pass it on to `make`.
    grammars: compiles `structured_outputs`; None where the engine was built without them.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer | None,
        vocab_size: int,
        max_model_len: int,
        eos_ids: Iterable[int] = (),
        seed: int = 0,
        max_total_tokens: int | None = None,
        page_size: int = 1,
        max_logprobs: int = MAX_LOGPROBS,
        default_max_tokens: int | None = None,
        grammars: GrammarCompiler | None = None,
    ):
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.max_model_len = max_model_len
        self.eos_ids = tuple(dict.fromkeys(eos_ids))
        self.seed = seed
        self.max_total_tokens = max_total_tokens
        self.page_size = page_size
        self.max_logprobs = max_logprobs
        self.default_max_tokens = default_max_tokens
        self.grammars = grammars

    def make(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        request_id: str,
        arrival: int,
        arrival_time: float,
        default_max_tokens: int | None = None,
        add_special_tokens: bool = True,
    ) -> Request:
        """Turn a prompt (text, token ids, `{"prompt": ...}` or `{"prompt_token_ids": ...}`) into a `Request`.

        `max_tokens=None` becomes `default_max_tokens` where that is given and fits, else what the context leaves.
        A rendered chat is encoded with `add_special_tokens=False`: the template has written them already.
        Raises RequestError, ContextLengthError where prompt and answer are longer than the model's context.
        """
        text, ids = self._prompt(prompt, add_special_tokens)
        params.verify(self.vocab_size)
        self._check_logprobs(params)
        max_tokens = self._max_tokens(len(ids), params, default_max_tokens)
        self._check_pool(len(ids), max_tokens, params.n)
        eos_ids = () if params.ignore_eos else self.eos_ids
        stop_ids = tuple(dict.fromkeys((*eos_ids, *(params.stop_token_ids or ()))))
        _check_stop_ids(stop_ids)
        bad_words = self._bad_words(params)
        _check_choice_left(params, stop_ids, bad_words)
        grammar = None if params.structured_outputs is None else self._grammar(params.structured_outputs)
        if grammar is not None:
            _check_form_can_begin(grammar, params, eos_ids, stop_ids, bad_words)
        seed = derived_seed(self.seed, arrival) if params.seed is None else params.seed
        return Request(
            request_id=request_id,
            prompt_token_ids=ids,
            params=dataclasses.replace(params, max_tokens=max_tokens, seed=seed),
            arrival=arrival,
            arrival_time=arrival_time,
            prompt=text,
            stop_ids=stop_ids,
            eos_ids=eos_ids,
            bad_words=bad_words,
            grammar=grammar,
        )

    def last_tokens(self, prompt: str | Sequence[int], most: int, add_special_tokens: bool = True) -> list[int]:
        """Token ids of the prompt's end: at most `most` of them. Raises RequestError."""
        if not isinstance(prompt, str):
            return list(prompt[-most:])
        if self.tokenizer is None:
            raise RequestError(NO_TOKENIZER, "prompt")
        return self.tokenizer.encode(prompt, add_special_tokens)[-most:]

    def _prompt(self, prompt: object, add_special_tokens: bool) -> tuple[str | None, tuple[int, ...]]:
        """The prompt's text, None where only token ids were given, and its token ids."""
        text: object = prompt if isinstance(prompt, str) else None
        ids: object = None
        if isinstance(prompt, Mapping):
            check_names("a prompt", map(str, prompt), PROMPT_KEYS, UNSUPPORTED_PROMPT_KEYS)
            text, ids = prompt.get("prompt"), prompt.get("prompt_token_ids")
            if text is None and ids is None:
                raise RequestError("a prompt must hold 'prompt' (text) or 'prompt_token_ids'.", "prompt")
        elif text is None:
            ids = prompt
        if text is not None:
            text = checks.text("prompt", text)
        if text is not None and ids is None:
            found = self._encode(text, add_special_tokens)
        else:
            found = self._token_ids(ids)
        if not found:
            raise RequestError("The prompt cannot be empty: it has no tokens.", "prompt")
        return text, found

    def _encode(self, text: str, add_special_tokens: bool) -> tuple[int, ...]:
        if self.tokenizer is None:
            raise RequestError(NO_TOKENIZER, "prompt")
        ids, whole = self.tokenizer.encode_at_most(text, self.max_model_len, add_special_tokens)
        if len(ids) >= self.max_model_len:
            self._refuse_prompt(len(ids) if whole else self.max_model_len + 1, "" if whole else "at least ")
        return tuple(ids)

    def _token_ids(self, ids: object) -> tuple[int, ...]:
        if isinstance(ids, str | bytes | Mapping) or not isinstance(ids, Sequence):
            raise RequestError(f"A prompt must be text or a list of token ids, got {checks.shown(ids)}.", "prompt")
        if len(ids) >= self.max_model_len:  # before looking at what may be a very long list
            self._refuse_prompt(len(ids), "")
        found = tuple(checks.integer("prompt_token_ids", token) for token in ids)
        checks.in_vocabulary("prompt_token_ids", found, self.vocab_size)
        return found

    def _refuse_prompt(self, count: int, at_least: str) -> None:
        raise ContextLengthError(
            f"This model's maximum context length is {self.max_model_len} tokens. However, your prompt contains "
            f"{at_least}{count} input tokens, and at least one must be left for the answer. Please shorten the prompt.",
            "prompt",
        )

    def _max_tokens(self, prompt_len: int, params: SamplingParams, default: int | None) -> int:
        room = self.max_model_len - prompt_len
        if params.max_tokens is None:
            max_tokens = room if default is None else min(room, max(default, params.min_tokens))
        else:
            max_tokens = params.max_tokens
        if max(max_tokens, params.min_tokens) > room:
            name = "max_tokens" if max_tokens > room else "min_tokens"
            wanted = max(max_tokens, params.min_tokens)
            raise ContextLengthError(
                f"This model's maximum context length is {self.max_model_len} tokens. However, you requested {wanted} "
                f"output tokens ({name}) and your prompt contains {prompt_len} input tokens, for a total of "
                f"{prompt_len + wanted} tokens. Please reduce either.",
                name,
            )
        return max_tokens

    def _check_pool(self, prompt_len: int, max_tokens: int, n: int) -> None:
        if self.max_total_tokens is None:
            return
        pages = -(-(prompt_len + max_tokens) // self.page_size)
        held = self.max_total_tokens // self.page_size
        if n * pages > held:
            times = "" if n == 1 else f", n={n} times"
            raise RequestError(
                f"The request reserves {n * pages} K/V pages of {self.page_size} tokens ({prompt_len} prompt tokens + "
                f"max_tokens={max_tokens}{times}), but this engine holds {held}. Reduce "
                f"{'max_tokens' if n == 1 else 'n or max_tokens'}, or give the engine more memory "
                "(kv_cache_memory_bytes).",
                "max_tokens" if n == 1 else "n",
            )

    def _check_logprobs(self, params: SamplingParams) -> None:
        for name, asked in (("logprobs", params.logprobs), ("prompt_logprobs", params.prompt_logprobs)):
            if asked is not None and asked > self.max_logprobs:
                raise RequestError(
                    f"{name} must be at most {self.max_logprobs} on this engine (max_logprobs), got {asked}.", name
                )

    def _bad_words(self, params: SamplingParams) -> tuple[tuple[int, ...], ...]:
        if not params.bad_words:
            return ()
        if self.tokenizer is None:
            raise RequestError("bad_words need a tokenizer, and this engine has none.", "bad_words")
        return bad_word_ids(self.tokenizer, params.bad_words)

    def _grammar(self, asked: object) -> Grammar:
        if self.tokenizer is None:
            raise RequestError("structured_outputs need a tokenizer, and this engine has none.", "structured_outputs")
        if self.grammars is None:
            raise RequestError("This engine was built with structured_outputs=False.", "structured_outputs")
        return self.grammars.compile(StructuredOutputsParams.of(asked))


def derived_seed(engine_seed: int, arrival: int) -> int:
    """63 bits that depend on the engine's seed and the request's number alone, on any machine."""
    text = f"orca_jax seed {engine_seed} {arrival}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def _check_stop_ids(stop_ids: Sequence[int]) -> None:
    if len(stop_ids) > MAX_STOP_IDS:
        raise RequestError(
            f"stop_token_ids and the model's own ends are {len(stop_ids)} ids together, but at most {MAX_STOP_IDS} fit: "
            "give fewer.",
            "stop_token_ids",
        )


def barred_at_first(params: SamplingParams, stop_ids: Sequence[int], bad_words: Sequence[Sequence[int]]) -> set[int]:
    """The tokens that no answer may begin with."""
    return {word[0] for word in bad_words if len(word) == 1} | (set(stop_ids) if params.min_tokens else set())


def _check_choice_left(params: SamplingParams, stop_ids: Sequence[int], bad_words: Sequence[Sequence[int]]) -> None:
    """Refuse what leaves the first token no choice at all: the sampler would have nothing but minus infinities."""
    if params.allowed_token_ids is None:
        return
    if barred_at_first(params, stop_ids, bad_words).issuperset(params.allowed_token_ids):
        raise RequestError(
            "allowed_token_ids leaves no token to choose: bad_words, or min_tokens with the stop tokens, exclude all.",
            "allowed_token_ids",
        )


def _check_form_can_begin(
    grammar: Grammar, params: SamplingParams, eos_ids: tuple[int, ...], stop_ids: Sequence[int],
    bad_words: Sequence[Sequence[int]],
) -> None:  # fmt: skip
    """The same for an answer that has a form. What contradicts it only later ends the answer with an error."""
    barred = barred_at_first(params, stop_ids, bad_words)
    if params.allowed_token_ids is None and not barred:
        return
    line = np.zeros(grammar.words, np.int32)
    grammar.matcher(eos_ids).fill(line)
    first = set(np.flatnonzero(np.unpackbits(line.view(np.uint8), bitorder="little")).tolist()) - barred
    if not (first if params.allowed_token_ids is None else first.intersection(params.allowed_token_ids)):
        raise RequestError(
            "structured_outputs leave no token to begin with: allowed_token_ids, bad_words, or min_tokens with the stop "
            "tokens exclude all that the form begins with.",
            "structured_outputs",
        )
