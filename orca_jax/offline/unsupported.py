"""What vLLM's `LLM` has and this one has not, so that each is refused by its name."""

from collections.abc import Mapping

from orca_jax.core.errors import RequestError
from orca_jax.core.naming import check_names
from orca_jax.core.unsupported import Neutral, reasons, without_neutral

_NO_POOLING = "this engine only generates; it has no pooled models"
_NO_BEAMS = "beam search is not implemented; n samples with logprobs come closest"
_NO_WORKERS = "there are no worker processes to call"
_NO_LIVE_WEIGHTS = "weights are loaded once; build another LLM"
_NO_SLEEP = "close() frees everything; build another LLM to go on"
_NO_PREFIX_CACHE = "there is no prefix cache"
_NO_PROFILER = "wrap the calls in jax.profiler.trace(...)"

METHODS: dict[str, str] = {
    "beam_search": _NO_BEAMS,
    **dict.fromkeys(("encode", "embed", "classify", "reward", "score"), _NO_POOLING),
    **dict.fromkeys(("collective_rpc", "apply_model", "get_world_size"), _NO_WORKERS),
    **dict.fromkeys(("init_weight_transfer_engine", "update_weights", "start_weight_update"), _NO_LIVE_WEIGHTS),
    **dict.fromkeys(("sleep", "wake_up", "release_kv_cache_memory"), _NO_SLEEP),
    "reset_prefix_cache": _NO_PREFIX_CACHE,
    "reset_mm_cache": "images and sound are not supported",
    **dict.fromkeys(("start_profile", "stop_profile"), _NO_PROFILER),
    "get_metrics": "see statistics()",
    "enqueue_chat": "see stream_chat(), or apply the template with get_tokenizer() and enqueue() that",
    "preprocess_chat": "see get_tokenizer()",
}

_ARGUMENTS: Neutral = {
    "lora_request": (None,),
    "priority": (None,),
    "tokenization_kwargs": (None,),
    "prompt_token_ids": (None,),
    "chat_template_content_format": ("auto", "string"),
    "tools": (None,),
    "mm_processor_kwargs": (None,),
}


def refuse_arguments(where: str, given: Mapping[str, object]) -> None:
    """Raise RequestError naming the first argument of `given` that asks for something."""
    asked = without_neutral(given, _ARGUMENTS)
    check_names(where, asked, (), reasons(asked, _ARGUMENTS), RequestError)
