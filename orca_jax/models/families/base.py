"""What a family is: how to read its config.json, and where each parameter's values lie among its tensors."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from orca_jax.models.config import DecoderConfig
from orca_jax.models.fields import Fields

Path = tuple[str | int, ...]
"""Where a parameter is in the `Decoder`: attribute names and layer numbers."""


def same(tensor: np.ndarray) -> np.ndarray:
    return tensor


@dataclass(frozen=True, slots=True)
class Piece:
    """One checkpoint tensor and its place: `parameter[where] = arrange(tensor)`. `shape` is the tensor's, as stored."""

    tensor: str
    shape: tuple[int, ...]
    arrange: Callable[[np.ndarray], np.ndarray] = same
    where: Any = ...


@dataclass(frozen=True, slots=True)
class Target:
    """One parameter and the pieces that fill it completely."""

    path: Path
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """A supported architecture.

    `optional_prefix` is left out of every name by some checkpoints of the family. `harmless` matches tensors (without
    that prefix) that old checkpoints carry and that are no parameters: masks and rotary tables.
    """

    name: str
    architecture: str
    config: Callable[[Fields], DecoderConfig]
    targets: Callable[[DecoderConfig], list[Target]]
    optional_prefix: str = ""
    harmless: re.Pattern[str] = re.compile(r".*\.rotary_emb\.(inv_freq|cos_cached|sin_cached)")


MAX_WIDTH = 2**20
MAX_VOCABULARY = 2**24
MAX_LAYERS = 2**12
MAX_POSITIONS = 2**24

ACTIVATIONS = {
    "silu": "silu", "swish": "silu", "relu": "relu", "gelu": "gelu", "gelu_python": "gelu",
    "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
}  # fmt: skip


def qkv(name: Callable[[str], str], kind: str, config: DecoderConfig) -> tuple[Piece, ...]:
    """The fused q, k, v `kind` ("weight" or "bias") of a layer whose three projections are called `name("q")` and so on.

    The parameter is `[K, G + 2, C, ...]`: a group's query heads, then its k, then its v.
    """
    c = config
    tail = (c.hidden_size,) if kind == "weight" else ()

    def piece(letter: str, heads: tuple[int, ...], where: Any) -> Piece:
        stored = (int(np.prod(heads)) * c.head_dim, *tail)
        return Piece(f"{name(letter)}.{kind}", stored, lambda t: t.reshape(*heads, c.head_dim, *tail), where)

    K, G = c.num_kv_heads, c.group_size
    return piece("q", (K, G), np.s_[:, :G]), piece("k", (K,), np.s_[:, G]), piece("v", (K,), np.s_[:, G + 1])


def whole(path: Path, tensor: str, shape: tuple[int, ...]) -> Target:
    """A parameter that is stored as it is used."""
    return Target(path, (Piece(tensor, shape),))


def norm(path: Path, name: str, width: int, *, bias: bool) -> list[Target]:
    targets = [whole((*path, "scale"), f"{name}.weight", (width,))]
    return [*targets, whole((*path, "bias"), f"{name}.bias", (width,))] if bias else targets
