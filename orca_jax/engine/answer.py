"""One growing answer: its tokens, the text they make, their log-probabilities, and what of it was already delivered."""

from collections.abc import Iterable

from orca_jax.core.outputs import CompletionOutput, Logprob
from orca_jax.core.plan import TokenLogprobs
from orca_jax.core.request import Request
from orca_jax.text.detokenizer import Detokenizer, detokenizer_for
from orca_jax.text.stop import StopMatcher, StopStrings
from orca_jax.text.tokenizer import Tokenizer


class Answer:
    """One of the `n` answers of a request. `text` never ends inside a character or what may be a stop string."""

    __slots__ = ("_cut_off", "_delivered_text", "_delivered_tokens", "_detokenizer", "_matcher", "_request",
                 "_tokenizer", "cumulative_logprob", "finish_reason", "index", "logprobs", "stop_reason", "text",
                 "token_ids", "touched")  # fmt: skip

    def __init__(self, request: Request, index: int, tokenizer: Tokenizer | None, stops: StopStrings | None):
        params = request.params
        self._request = request
        self._tokenizer = tokenizer
        self._detokenizer: Detokenizer | None = None
        if tokenizer is not None:
            self._detokenizer = detokenizer_for(
                tokenizer, request.prompt_token_ids, params.skip_special_tokens, params.spaces_between_special_tokens
            )
        self._matcher: StopMatcher | None = None if stops is None else stops.matcher()
        self._cut_off = False
        self.index = index
        self.text = ""
        self.token_ids: list[int] = []
        self.logprobs: list[dict[int, Logprob]] | None = None if params.logprobs is None else []
        self.cumulative_logprob = 0.0
        self.finish_reason: str | None = None
        self.stop_reason: str | int | None = None
        self.touched = False
        self._delivered_text = 0
        self._delivered_tokens = 0

    def push(self, token: int, logprobs: TokenLogprobs | None) -> str | None:
        """Append a token; returns the stop string that it completes, if any."""
        self.touched = True
        self.token_ids.append(token)
        if self.logprobs is not None and logprobs is not None:
            self.logprobs.append(entry(logprobs, self._tokenizer))
            self.cumulative_logprob += logprobs.logprob
        if self._detokenizer is None:
            return None
        params = self._request.params
        ends_here = token in self._request.stop_ids and len(self.token_ids) >= params.min_tokens
        if ends_here and not params.include_stop_str_in_output:
            return None  # an id that ends the answer is not part of its text
        return self._show(self._detokenizer.push(token), armed=len(self.token_ids) > params.min_tokens)

    def finish(self, reason: str, stop_reason: str | int | None) -> None:
        """End the answer. Text that was waiting to be decided is shown, unless a stop string cut it off."""
        self.touched = True
        self.finish_reason = reason
        self.stop_reason = stop_reason
        if self._detokenizer is not None and not self._cut_off:
            self._show(self._detokenizer.finish(), armed=False)
            if self._matcher is not None:
                self.text += self._matcher.finish()

    def output(self, delta: bool) -> CompletionOutput:
        """The answer so far, or only what is new since the last call."""
        first_token = self._delivered_tokens if delta else 0
        first_character = self._delivered_text if delta else 0
        self._delivered_tokens, self._delivered_text = len(self.token_ids), len(self.text)
        self.touched = False
        return CompletionOutput(
            index=self.index,
            text=self.text[first_character:],
            token_ids=self.token_ids[first_token:],
            cumulative_logprob=None if self.logprobs is None else self.cumulative_logprob,
            logprobs=None if self.logprobs is None else self.logprobs[first_token:],
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
        )

    def _show(self, text: str, armed: bool) -> str | None:
        match = None
        if self._matcher is not None:
            text, match = self._matcher.push(text, armed)
            self._cut_off = match is not None
        self.text += text
        return match


def entry(logprobs: TokenLogprobs, tokenizer: Tokenizer | None) -> dict[int, Logprob]:
    """The token itself first, then the most likely ones in their order; without a tokenizer they have no text."""
    found = {logprobs.token: _logprob(logprobs.token, logprobs.logprob, logprobs.rank, tokenizer)}
    for rank, (token, logprob) in enumerate(logprobs.top, start=1):
        if token != logprobs.token:
            found[token] = _logprob(token, logprob, rank, tokenizer)
    return found


def _logprob(token: int, logprob: float, rank: int, tokenizer: Tokenizer | None) -> Logprob:
    return Logprob(logprob, rank, None if tokenizer is None else tokenizer.token_text(token))


def entries(logprobs: Iterable[TokenLogprobs], tokenizer: Tokenizer | None) -> list[dict[int, Logprob]]:
    return [entry(item, tokenizer) for item in logprobs]
