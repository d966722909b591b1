"""From tokens to what clients receive: text, stop strings, log-probabilities, times, in the rhythm they asked for."""

from collections.abc import Iterable

from orca_jax.core.errors import EngineError, RequestError
from orca_jax.core.outputs import Logprob, RequestMetrics, RequestOutput
from orca_jax.core.plan import TokenLogprobs
from orca_jax.core.request import Request
from orca_jax.core.sampling_params import RequestOutputKind
from orca_jax.engine.answer import Answer, entries
from orca_jax.text.stop import StopStrings
from orca_jax.text.tokenizer import Tokenizer


class OutputProcessor:
    """Collects the answers of all live requests. Without a tokenizer, or with `detokenize=False`, texts stay empty.

    Times are seconds on the engine's clock, given with the calls that they belong to.
    """

    def __init__(self, tokenizer: Tokenizer | None = None):
        self._tokenizer = tokenizer
        self._live: dict[str, _Live] = {}
        self._touched: dict[str, None] = {}  # in the order of their first news

    def add(self, request: Request) -> None:
        if request.request_id in self._live:
            raise RequestError(f"request id {request.request_id!r} is in use already", "request_id")
        self._live[request.request_id] = _Live(request, self._tokenizer)

    def scheduled(self, request_id: str, now: float) -> None:
        """Note when the first of the request's sequences was launched."""
        live = self._live.get(request_id)
        if live is not None and live.metrics.first_scheduled_time is None:
            live.metrics.first_scheduled_time = now

    def push(
        self, request_id: str, index: int, token: int, logprobs: TokenLogprobs | None, now: float | None = None
    ) -> str | None:
        """Append a token that was kept; returns the stop string that it completes: the caller then ends the answer."""
        live = self._of(request_id)
        if live.metrics.first_token_time is None:
            live.metrics.first_token_time = now
        self._touched[request_id] = None
        return live.answers[index].push(token, logprobs)

    def push_prompt_logprobs(self, request_id: str, index: int, prompt: Iterable[TokenLogprobs]) -> None:
        """Append entries for the prompt's next positions. All sequences report the same ones; the first one's count."""
        live = self._of(request_id)
        if index == 0 and live.prompt_logprobs is not None:
            live.prompt_logprobs += entries(prompt, live.tokenizer)

    def finish(
        self,
        request_id: str,
        index: int,
        reason: str | None,
        stop_reason: str | int | None = None,
        now: float | None = None,
    ) -> None:
        """End one answer with "stop", "length", "abort" or "error". A second end is ignored."""
        live = self._live.get(request_id)
        if live is None or live.answers[index].finish_reason is not None:
            return
        live.answers[index].finish(reason or "error", stop_reason)
        self._touched[request_id] = None
        if live.finished:
            live.metrics.finished_time = now

    def error(self, request_id: str, message: str, now: float | None = None, field: str | None = None) -> None:
        """End what is left of a request with "error" and say why. Unknown or ended requests are ignored.

        `field` is the one of the request that is to blame, if any.
        """
        live = self._live.get(request_id)
        if live is not None:
            live.error, live.error_parameter = message, field
            for answer in live.answers:
                self.finish(request_id, answer.index, "error", now=now)

    def take(self) -> list[RequestOutput]:
        """One output for each request with news since the last call; those that have ended are forgotten."""
        outputs = []
        for request_id in self._touched:
            live = self._live[request_id]
            if live.finished:
                del self._live[request_id]
            elif live.request.params.output_kind is RequestOutputKind.FINAL_ONLY:
                continue
            outputs.append(live.output())
        self._touched.clear()
        return outputs

    def statistics(self) -> dict[str, int]:
        return {"requests": len(self._live), "untaken": len(self._touched)}

    def check(self) -> None:
        """Raise EngineError if a request has ended and does not wait to be delivered, or waits and is not live."""
        lost = [key for key, live in self._live.items() if live.finished and key not in self._touched]
        ghosts = [key for key in self._touched if key not in self._live]
        if lost or ghosts:
            raise EngineError(f"outputs are inconsistent: {len(lost)} requests lost, {len(ghosts)} unknown")

    def _of(self, request_id: str) -> "_Live":
        try:
            return self._live[request_id]
        except KeyError:
            raise EngineError(f"request {request_id!r} is not live") from None


class _Live:
    """A request whose last output has not been taken."""

    __slots__ = ("answers", "error", "error_parameter", "metrics", "prompt_delivered", "prompt_logprobs",
                 "prompt_token_ids", "request", "tokenizer")  # fmt: skip

    def __init__(self, request: Request, tokenizer: Tokenizer | None):
        params = request.params
        self.request = request
        self.prompt_token_ids = list(request.prompt_token_ids)  # one list for all outputs: prompts are long
        self.tokenizer = tokenizer if params.detokenize else None
        stops = StopStrings(params.stop, params.include_stop_str_in_output) if params.stop and self.tokenizer else None
        self.answers = [Answer(request, index, self.tokenizer, stops) for index in range(params.n)]
        self.metrics = RequestMetrics(request.arrival_time)
        self.prompt_logprobs: list[dict[int, Logprob] | None] | None = None
        if params.prompt_logprobs is not None:
            self.prompt_logprobs = [None]  # nothing predicts the first token
        self.prompt_delivered = 0
        self.error: str | None = None
        self.error_parameter: str | None = None

    @property
    def finished(self) -> bool:
        return all(answer.finish_reason is not None for answer in self.answers)

    def output(self) -> RequestOutput:
        delta = self.request.params.output_kind is RequestOutputKind.DELTA
        answers = [answer for answer in self.answers if answer.touched] if delta else self.answers
        times = self.metrics
        return RequestOutput(
            request_id=self.request.request_id,
            prompt=self.request.prompt,
            prompt_token_ids=self.prompt_token_ids,
            outputs=[answer.output(delta) for answer in answers],
            finished=self.finished,
            prompt_logprobs=self._prompt_logprobs(delta),
            metrics=RequestMetrics(
                times.arrival_time, times.first_scheduled_time, times.first_token_time, times.finished_time
            ),
            seed=self.request.params.seed,
            error=self.error,
            error_parameter=self.error_parameter,
            delta=delta,
        )

    def _prompt_logprobs(self, delta: bool) -> list[dict[int, Logprob] | None] | None:
        """All of them; as deltas only what is new, None when that is nothing."""
        if self.prompt_logprobs is None:
            return None
        first = self.prompt_delivered if delta else 0
        self.prompt_delivered = len(self.prompt_logprobs)
        return self.prompt_logprobs[first:] or None
