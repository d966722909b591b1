"""The offline door: a model in this process, under the names that users of vLLM's `LLM` know."""

import weakref
from collections.abc import Generator, Iterable, Mapping, Sequence
from os import PathLike, fspath
from types import TracebackType
from typing import TYPE_CHECKING, Any

from orca_jax.core.config import EngineConfig
from orca_jax.core.errors import RequestError
from orca_jax.core.events import Observer
from orca_jax.core.outputs import RequestOutput
from orca_jax.core.request import Request
from orca_jax.core.sampling_params import RequestOutputKind, SamplingParams
from orca_jax.engine.door import Prompt
from orca_jax.offline.building import build as _build
from orca_jax.offline.desk import Desk
from orca_jax.offline.pending import Pending
from orca_jax.offline.progress import GenerationBar, TokenCounter
from orca_jax.offline.prompts import Conversation, as_conversations, as_prompts, params_for_each
from orca_jax.offline.reception import Reception, blaming
from orca_jax.offline.unsupported import METHODS, refuse_arguments
from orca_jax.text.chat import render

if TYPE_CHECKING:  # building imports jax, which `import orca_jax` must not
    from orca_jax.engine.build import BuiltEngine, EngineInfo
    from orca_jax.text.tokenizer import Tokenizer

OneOrMany = SamplingParams | Sequence[SamplingParams] | None


class LLM:
    """A loaded model and its engine: load once, `generate` and `chat` as often as needed; `close` frees the memory.

    model: a folder or Hub id of a checkpoint, None for the bundled demo model. Every field of `EngineConfig` may
    follow, under its own name; the names of vLLM that mean nothing here are refused by name. `observers` are called
    with the engine's events, `use_tqdm_on_load=False` hides the bars of loading and warm-up.

    Raises ConfigError for a setting and CheckpointError for a checkpoint that cannot be honoured.
    """

    def __init__(
        self,
        model: str | PathLike[str] | None = None,
        *,
        observers: Iterable[Observer] = (),
        use_tqdm_on_load: bool = True,
        **settings: Any,
    ):
        config = EngineConfig.from_settings({"model": None if model is None else fspath(model), **settings})
        counter = TokenCounter()
        self._serve(_build(config, (counter, *observers), use_tqdm_on_load), counter)

    @classmethod
    def over(cls, built: "BuiltEngine", counter: TokenCounter | None = None) -> "LLM":
        """An LLM around an engine that exists already, which it owns from now on."""
        llm = cls.__new__(cls)
        llm._serve(built, TokenCounter() if counter is None else counter)
        return llm

    def _serve(self, built: "BuiltEngine", counter: TokenCounter) -> None:
        self._built = built
        self._counter = counter
        self._desk = Desk(built.engine)
        self._reception = Reception(built.door, built.engine.clock)
        self._enqueued = Pending(self._desk)
        self._finalizer = weakref.finalize(self, self._desk.close)  # an LLM that nobody holds frees its memory

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: OneOrMany = None,
        *,
        use_tqdm: bool = True,
        **unsupported: Any,
    ) -> list[RequestOutput]:
        """Continue each prompt; returns the finished outputs in the order of the prompts.

        A prompt is a string, `{"prompt": str}`, `{"prompt_token_ids": [...]}` or a list of token ids.
        `sampling_params` is one for all, a list with one for each, or None for the defaults. Raises RequestError for a
        bad one among them before anything runs, and EngineError if the engine fails. Ctrl-C ends these requests and
        leaves the engine usable.
        """
        refuse_arguments("LLM.generate", unsupported)
        return self._finish(self._requests(prompts, sampling_params, RequestOutputKind.FINAL_ONLY), use_tqdm)

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: OneOrMany = None,
        *,
        use_tqdm: bool = True,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **unsupported: Any,
    ) -> list[RequestOutput]:
        """Answer each conversation, a list of `{"role": ..., "content": ...}`; otherwise like `generate`.

        Without `sampling_params`, or with `max_tokens=None`, an answer has at most `default_max_tokens` tokens.
        `chat_template` is Jinja source or the name of one of the checkpoint's templates, `chat_template_kwargs` are
        further variables for it.
        """
        refuse_arguments("LLM.chat", unsupported)
        template = _template(chat_template, add_generation_prompt, continue_final_message, chat_template_kwargs)
        requests = self._chats(messages, sampling_params, RequestOutputKind.FINAL_ONLY, template)
        return self._finish(requests, use_tqdm)

    def stream(
        self, prompts: Prompt | Sequence[Prompt], sampling_params: OneOrMany = None
    ) -> Generator[RequestOutput, None, None]:
        """Yield what is new about any of the prompts as it comes: only the text and tokens since its last output.

        `request_id` counts up in the order of the prompts. A bad prompt is refused here; the engine sees the others when
        the first output is asked for. Closing the iterator ends what still runs.
        """
        return self._deltas(self._requests(prompts, sampling_params, RequestOutputKind.DELTA))

    def stream_chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: OneOrMany = None,
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> Generator[RequestOutput, None, None]:
        """Like `chat`, but yields what is new as `stream` does."""
        template = _template(chat_template, add_generation_prompt, continue_final_message, chat_template_kwargs)
        return self._deltas(self._chats(messages, sampling_params, RequestOutputKind.DELTA, template))

    def enqueue(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: OneOrMany = None,
        *,
        default_max_tokens: int | None = None,
    ) -> list[str]:
        """Hand prompts to the engine without running it, at any time between steps. Returns their request ids.

        `default_max_tokens` is what `max_tokens=None` becomes, where the context leaves as much; otherwise all it leaves.
        """
        return self._enqueued.add(self._requests(prompts, sampling_params, None, default_max_tokens))

    def step(self) -> list[RequestOutput]:
        """Run one iteration; returns what is new about enqueued requests, as their `output_kind` says.

        A request whose last output was returned here is forgotten.
        """
        outputs = self._enqueued.turn()
        self._enqueued.discard([output.request_id for output in outputs if output.finished])
        return outputs

    @property
    def has_unfinished(self) -> bool:
        """Whether an enqueued request has not ended."""
        return self._enqueued.has_unfinished

    def wait_for_completion(self, *, use_tqdm: bool = True) -> list[RequestOutput]:
        """Step until every enqueued request has ended; returns the last outputs, in order, that `step` has not."""
        with GenerationBar(len(self._enqueued), self._counter, use_tqdm) as bar:
            self._enqueued.wait(bar)
        return self._enqueued.take()

    def abort(self, request_ids: Iterable[str]) -> None:
        """End enqueued requests and forget them; ids that are unknown are ignored."""
        self._enqueued.discard(request_ids)

    def get_tokenizer(self) -> "Tokenizer":
        """The tokenizer in use. Raises RequestError where `skip_tokenizer_init` left it out."""
        if self._built.tokenizer is None:
            raise RequestError("there is no tokenizer: the engine was built with skip_tokenizer_init=True")
        return self._built.tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """What `generate` uses where no parameters are given: the defaults of SamplingParams.

        What a checkpoint's generation_config.json recommends is checked, but not applied.
        """
        return SamplingParams()

    @property
    def config(self) -> EngineConfig:
        """What was asked for."""
        return self._built.config

    @property
    def info(self) -> "EngineInfo":
        """What was chosen for this machine and model: devices, dtype, lengths, memory, buckets."""
        return self._built.info

    def statistics(self) -> dict[str, float | int | str]:
        """Counters of the engine: iterations, requests, pages, compiles after warm-up, ..."""
        return self._desk.statistics()

    def close(self) -> None:
        """End what runs and give the memory back. Idempotent; the object is of no use afterwards."""
        self._finalizer()

    def __enter__(self) -> "LLM":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        if name in METHODS:
            raise AttributeError(f"LLM.{name} is not supported: {METHODS[name]}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _requests(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: OneOrMany,
        kind: RequestOutputKind | None,
        default_max_tokens: int | None = None,
    ) -> list[Request]:
        """All prompts through the door before the engine sees the first."""
        each = as_prompts(prompts)
        params = params_for_each(sampling_params, len(each), self.get_default_sampling_params())
        return self._reception.requests(each, params, kind, default_max_tokens)

    def _chats(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: OneOrMany,
        kind: RequestOutputKind,
        template: dict[str, Any],
    ) -> list[Request]:
        each = as_conversations(messages)
        params = params_for_each(sampling_params, len(each), SamplingParams(max_tokens=None))
        tokenizer = self.get_tokenizer()
        texts = blaming(each, "conversation", lambda _, conversation: render(tokenizer, conversation, **template))
        most = self._built.config.default_max_tokens
        return self._reception.requests(texts, params, kind, most, add_special_tokens=False)

    def _finish(self, requests: list[Request], use_tqdm: bool) -> list[RequestOutput]:
        pending = Pending(self._desk)
        with GenerationBar(len(requests), self._counter, use_tqdm) as bar:
            pending.add(requests)
            pending.wait(bar)
        return pending.take()

    def _deltas(self, requests: list[Request]) -> Generator[RequestOutput, None, None]:
        # Submitted in here: a generator that is dropped before its first turn could not take its requests back. And
        # it holds `self`: the engine must not be freed under a stream that is still read.
        yield from Pending(self._desk).deltas(requests)


def _template(
    chat_template: str | None,
    add_generation_prompt: bool,
    continue_final_message: bool,
    chat_template_kwargs: Mapping[str, Any] | None,
) -> dict[str, Any]:
    return {
        "chat_template": chat_template,
        "add_generation_prompt": add_generation_prompt,
        "continue_final_message": continue_final_message,
        "template_kwargs": chat_template_kwargs,
    }
