"""Every setting of the engine, once: the constructor, the command line and the TOML files all read this one table."""

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from orca_jax.core.errors import ConfigError
from orca_jax.core.naming import check_names
from orca_jax.core.sampling_params import MAX_LOGPROBS
from orca_jax.core.settings import check_settings, flag, setting
from orca_jax.core.unsupported import SETTINGS_OF_OTHERS, reasons, without_neutral

DTYPES = ("auto", "float32", "bfloat16", "float16")
DEFAULT_CACHE = "~/.cache/orca_jax"
LOAD_FORMATS = ("auto", "safetensors", "dummy")
MAX_BLOCK_SIZE = 256


SIZES = {"kv_cache_memory_bytes"}
"""Settings in bytes, which may be written with a unit wherever they are text."""
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def memory_size(text: str) -> int:
    """Bytes from `2147483648`, `500M` or `2GiB`. Raises ConfigError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?|)b?", text.strip().lower())
    if match is None:
        raise ConfigError(f"{text!r} is not a size; write it like 2147483648, 500M or 2GiB")
    return int(float(match[1]) * _UNITS[match[2]]) if "." in match[1] else int(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What was asked for. None means "choose for this machine and model"; `build_engine` reports what was chosen.

    Raises ConfigError, one line naming the setting, its value, the bound and the way out.
    """

    model: str | None = setting(None, "folder or Hub id of a checkpoint (default: the bundled demo model)")
    tokenizer: str | None = setting(None, "folder or Hub id of another tokenizer (default: the model's own)")
    revision: str | None = setting(None, "one Hub commit for weights, config, tokenizer and chat template together")
    load_format: str = setting("auto", "'dummy' gives random weights from a config alone", choices=LOAD_FORMATS)
    skip_tokenizer_init: bool = setting(False, "load no tokenizer: prompts and answers are token ids")
    dtype: str = setting("auto", "type of weights and activations; 'auto' is the checkpoint's", choices=DTYPES)
    seed: int = setting(0, "derives the seed of every request that has none", 0, 2**63 - 1)
    max_model_len: int | None = setting(
        None, "most tokens, prompt and answer together, that one sequence may have (default: the model's)", 2, 2**24
    )
    max_num_seqs: int | None = setting(
        None, "most sequences in one iteration, the paper's max_bs (default: 16 on CPU, more elsewhere)", 1, 2**14
    )
    max_num_batched_tokens: int | None = setting(None, "most tokens in one iteration", 1, 2**20)
    enable_chunked_prefill: bool = setting(
        True,
        "split a long prompt over iterations; off is the paper's own mode: whole prompts only, as many as "
        "max_num_batched_tokens holds",
    )
    lookahead: int = setting(
        1, "1 launches an iteration before the host has read the one before; 0 is the plain loop", 0, 1
    )
    deterministic: bool = setting(False, "one compiled shape for everything: answers are bitwise equal in any company")
    default_max_tokens: int = setting(256, "max_tokens of a chat that does not say", 1, 2**24)
    max_logprobs: int = setting(MAX_LOGPROBS, "most log-probabilities that a request may ask for", 0, MAX_LOGPROBS)
    block_size: int | None = setting(None, "tokens in one page of K/V memory, a power of two", 1, MAX_BLOCK_SIZE)
    kv_cache_memory_bytes: int | None = setting(
        None, "size of the K/V pool, as 2147483648 or 2GiB (default: what max_num_seqs x max_model_len needs)", 1, 2**50
    )
    gpu_memory_utilization: float = setting(0.92, "share of an accelerator's memory for weights and K/V, above 0 to 1")
    attention_backend: str = setting("auto", "implementation of attention; `orca-jax info` says what 'auto' chooses")
    compilation_cache_dir: str | None = setting(
        "auto", "where compiled programs are kept between runs; 'none' keeps nothing, 'auto' is where JAX has been told "
        f"to keep them, else {DEFAULT_CACHE}"
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_settings(self)
        _check_utilization(self.gpu_memory_utilization)
        _check_block_size(self.block_size)
        self._check_together()

    def _check_together(self) -> None:
        budget, seqs, length = self.max_num_batched_tokens, self.max_num_seqs, self.max_model_len
        if budget is not None and seqs is not None and budget < seqs:
            raise ConfigError(
                f"max_num_batched_tokens = {budget} is below max_num_seqs = {seqs}: every sequence needs at least one "
                f"token of an iteration (raise {flag('max_num_batched_tokens')} or lower {flag('max_num_seqs')})"
            )
        if not self.enable_chunked_prefill and budget is not None and length is not None and budget < length:
            raise ConfigError(
                f"max_num_batched_tokens = {budget} is below max_model_len = {length}, but with enable_chunked_prefill "
                f"off a prompt runs whole (raise {flag('max_num_batched_tokens')} or leave chunking on)"
            )
        if self.deterministic and not self.enable_chunked_prefill:
            raise ConfigError(
                "deterministic = True needs enable_chunked_prefill: its one compiled shape holds prompts only in "
                "chunks (drop one of the two)"
            )
        if self.skip_tokenizer_init and self.tokenizer is not None:
            raise ConfigError(
                f"skip_tokenizer_init = True contradicts tokenizer = {self.tokenizer!r} (drop one of the two)"
            )

    @classmethod
    def from_settings(cls, settings: Mapping[str, object]) -> "EngineConfig":
        """The configuration that `settings` name, under our names or vLLM's; any other name is refused by name."""
        known = {spec.name for spec in fields(cls)} | {"async_scheduling"}
        kept = without_neutral(settings, SETTINGS_OF_OTHERS)
        refusals = reasons(kept, SETTINGS_OF_OTHERS)
        check_names("this engine", kept, known, refusals, lambda message, _: ConfigError(message))
        sizes = {name: memory_size(value) for name in SIZES if isinstance(value := kept.get(name), str)}
        return cls(**_with_lookahead({**kept, **sizes}))  # type: ignore[arg-type]  # __post_init__ checks every type

    def cache_path(self, told: str | None) -> Path | None:
        """The folder for compiled programs, None where nothing is to be kept. `told` is what JAX would use by itself."""
        folder = self.compilation_cache_dir
        if folder == "auto":
            folder = told or DEFAULT_CACHE
        return None if folder is None or folder == "none" else Path(folder).expanduser()


def load_settings(path: str | Path) -> dict[str, object]:
    """The settings in a TOML file, unchecked except that it is one flat table. The string "none" stands for None.

    Raises ConfigError naming the file.
    """
    try:
        with Path(path).open("rb") as file:
            settings = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read config file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path} is not valid TOML: {error}") from error
    for name, value in settings.items():
        if isinstance(value, dict):
            raise ConfigError(f"config file {path} has a table [{name}]: settings stand at the top level")
    return {name: None if value == "none" else value for name, value in settings.items()}


def load_config(path: str | Path) -> EngineConfig:
    """The configuration in a TOML file. Raises ConfigError naming the file and the setting."""
    settings = load_settings(path)
    try:
        return EngineConfig.from_settings(settings)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _with_lookahead(settings: dict[str, object]) -> dict[str, object]:
    """Translate vLLM's `async_scheduling` into `lookahead`; None means the default there."""
    rest = {name: value for name, value in settings.items() if name != "async_scheduling"}
    asked = settings.get("async_scheduling")
    if asked is None:
        return rest
    if not isinstance(asked, bool):
        raise ConfigError(f"async_scheduling = {asked!r} is a {type(asked).__name__}, but a bool is needed")
    if "lookahead" in rest and rest["lookahead"] != int(asked):
        raise ConfigError(
            f"async_scheduling = {asked} contradicts lookahead = {rest['lookahead']!r} (they are one setting: drop one)"
        )
    return {**rest, "lookahead": int(asked)}


def _check_utilization(value: float) -> None:
    if not (math.isfinite(value) and 0.0 < value <= 1.0):
        raise ConfigError(
            f"gpu_memory_utilization = {value}, but it is a share of the memory, above 0 and at most 1 "
            f"({flag('gpu_memory_utilization')} 0.92)"
        )


def _check_block_size(value: int | None) -> None:
    if value is not None and value & (value - 1):
        raise ConfigError(
            f"block_size = {value}, but it must be a power of two, at most {MAX_BLOCK_SIZE} (--block-size 16)"
        )
