"""Orca (OSDI '22) in JAX: iteration-level scheduling and selective batching for Transformer inference.

The names below are the public surface. They are loaded on first use, so that `import orca_jax` costs nothing and
`SamplingParams` can be had without jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

from orca_jax.version import __version__

if TYPE_CHECKING:
    from orca_jax.core.errors import (
        CheckpointError,
        ConfigError,
        ContextLengthError,
        EngineError,
        OrcaError,
        RequestError,
    )
    from orca_jax.core.outputs import CompletionOutput, Logprob, RequestMetrics, RequestOutput
    from orca_jax.core.sampling_params import RequestOutputKind, SamplingParams
    from orca_jax.core.structured_outputs import StructuredOutputsParams
    from orca_jax.offline.llm import LLM

__all__ = [
    "LLM",
    "SamplingParams",
    "StructuredOutputsParams",
    "RequestOutputKind",
    "RequestOutput",
    "CompletionOutput",
    "Logprob",
    "RequestMetrics",
    "OrcaError",
    "ConfigError",
    "RequestError",
    "ContextLengthError",
    "CheckpointError",
    "EngineError",
    "__version__",
]

_HOMES = {
    "LLM": "orca_jax.offline.llm",
    "SamplingParams": "orca_jax.core.sampling_params",
    "StructuredOutputsParams": "orca_jax.core.structured_outputs",
    "RequestOutputKind": "orca_jax.core.sampling_params",
    "RequestOutput": "orca_jax.core.outputs",
    "CompletionOutput": "orca_jax.core.outputs",
    "Logprob": "orca_jax.core.outputs",
    "RequestMetrics": "orca_jax.core.outputs",
    "OrcaError": "orca_jax.core.errors",
    "ConfigError": "orca_jax.core.errors",
    "RequestError": "orca_jax.core.errors",
    "ContextLengthError": "orca_jax.core.errors",
    "CheckpointError": "orca_jax.core.errors",
    "EngineError": "orca_jax.core.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value  # asked for once, ordinary from then on
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
