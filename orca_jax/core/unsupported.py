"""The constructor names that people bring from vLLM and that mean nothing here yet, so that each is refused by name.

Every name carries the values that ask for nothing; those are accepted, any other value is an error.
"""

from collections.abc import Mapping

from orca_jax.core.checks import shown

Neutral = Mapping[str, tuple[object, ...]]

_ONE_DEVICE = (
    "tensor_parallel_size pipeline_parallel_size data_parallel_size decode_context_parallel_size "
    "prefill_context_parallel_size nnodes"
)
_OFF = (
    "trust_remote_code enforce_eager disable_custom_all_reduce enable_expert_parallel enable_eplb "
    "enable_prefix_caching enable_lora enable_sleep_mode enable_prompt_embeds disable_sliding_window "
    "disable_cascade_attn enable_dbo disable_hybrid_kv_cache_manager language_model_only calculate_kv_scales "
    "kv_sharing_fast_prefill use_tqdm_on_load"
)
_ABSENT = (
    "hf_token hf_overrides hf_config_path structured_outputs_config compilation_config quantization "
    "quantization_config logits_processors spec_method spec_model spec_tokens speculative_config tokenizer_revision "
    "code_revision chat_template allowed_media_domains limit_mm_per_prompt mm_processor_kwargs media_io_kwargs "
    "max_loras max_lora_rank lora_dtype kv_transfer_config kv_events_config ec_transfer_config "
    "num_gpu_blocks_override distributed_executor_backend worker_cls worker_extension_cls "
    "override_generation_config pooler_config reasoning_parser served_model_name download_dir "
    "model_loader_extra_config ignore_patterns profiler_config attention_config kernel_config additional_config "
    "max_num_queued_reqs max_num_queued_tokens stream_interval max_cudagraph_capture_size cudagraph_capture_sizes "
    "otlp_traces_endpoint shutdown_timeout watchdog_config performance_mode optimization_level"
)

SETTINGS_OF_OTHERS: Neutral = {
    **dict.fromkeys(_ONE_DEVICE.split(), (1,)),
    **dict.fromkeys(_OFF.split(), (False, None)),
    **dict.fromkeys(_ABSENT.split(), (None,)),
    "allowed_local_media_path": ("",),
    "config_format": ("auto",),
    "convert": ("auto", "none"),
    "cpu_offload_gb": (0, 0.0),
    "device": ("auto",),
    "disable_log_stats": (True,),
    "generation_config": ("vllm",),
    "kv_cache_dtype": ("auto",),
    "logprobs_mode": ("raw_logprobs",),
    "long_prefill_token_threshold": (0,),
    "max_num_partial_prefills": (1,),
    "model_impl": ("auto",),
    "prefix_caching_hash_algo": ("sha256",),
    "runner": ("auto", "generate"),
    "scheduling_policy": ("fcfs",),
    "swap_space": (0, 0.0),
    "tokenizer_mode": ("auto",),
}


def without_neutral(given: Mapping[str, object], neutral: Neutral) -> dict[str, object]:
    """`given` less the entries that ask for nothing: names in `neutral` with one of the values listed there."""
    return {name: value for name, value in given.items() if not _is_one_of(value, neutral.get(name, ()))}


def reasons(given: Mapping[str, object], neutral: Neutral) -> dict[str, str]:
    """For each name of `neutral`, what to do instead of the value in `given`."""
    return {name: _way_out(given.get(name), values) for name, values in neutral.items()}


def _is_one_of(value: object, values: tuple[object, ...]) -> bool:
    # 1 == True and 0 == False in Python: compare the types too, or tensor_parallel_size=True would pass
    return any(type(value) is type(other) and value == other for other in values)


def _way_out(value: object, neutral: tuple[object, ...]) -> str:
    settable = [other for other in neutral if other is not None]
    return "leave it out" + (f" or set it to {settable[0]!r}" if settable else "") + f", got {shown(value)}"
