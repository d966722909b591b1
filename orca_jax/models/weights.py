"""From tensors in files to parameters on the device, one at a time, after everything has been checked."""

from collections.abc import Callable
from functools import partial
from pathlib import Path as Folder

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from orca_jax.core.errors import CheckpointError
from orca_jax.models.config import DecoderConfig
from orca_jax.models.families.base import Family, Path
from orca_jax.models.safetensors_file import READABLE, TensorEntry, scan_folder

Progress = Callable[[int, int, str], None]
"""`(bytes done, bytes in all, what was done last)`, called after each parameter."""

HEAD = "lm_head.weight"


def silent(done: int, total: int, name: str) -> None:
    """The progress callback that shows nothing."""


class CheckpointWeights:
    """The parameters of one checkpoint folder, known to be complete and of the right shapes before any is read."""

    def __init__(self, folder: Folder, family: Family, config: DecoderConfig):
        tensors, self.digest = scan_folder(folder)
        prefix = family.optional_prefix
        self.strip = prefix if prefix and not any(name.startswith(prefix) for name in tensors) else ""
        self.num_layers = config.num_layers
        self.targets = {target.path: target for target in family.targets(config)}
        self.entries = self._match(folder, family, config, tensors)
        self.total_bytes = sum(entry.num_bytes for entry in self.entries.values())

    def dtype(self) -> np.dtype:
        """The type in which most of the weights are stored."""
        sizes: dict[str, int] = {}
        for entry in self.entries.values():
            sizes[entry.kind] = sizes.get(entry.kind, 0) + entry.num_bytes
        return READABLE[max(sizes, key=lambda kind: sizes[kind])]

    def is_stacked(self, path: Path) -> bool:
        """Whether the path is that of a parameter of all layers at once."""
        return path[0] == "layers" and not isinstance(path[1], int)

    def size(self, path: Path) -> int:
        """Bytes in the files for this parameter."""
        if self.is_stacked(path):
            return sum(self.size(_in_layer(path, i)) for i in range(self.num_layers))
        return sum(self.entries[piece.tensor].num_bytes for piece in self.targets[path].pieces)

    def read(self, path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """One parameter, assembled and converted; on the way at most one of its tensors is held beside it."""
        pieces = self.targets[path].pieces
        with np.errstate(over="ignore"):  # what float16 cannot hold becomes infinite, as in every engine
            if len(pieces) == 1:
                tensor = pieces[0].arrange(self.entries[pieces[0].tensor].read())
                return np.ascontiguousarray(tensor.reshape(shape), dtype)
            values = np.empty(shape, dtype)
            for piece in pieces:
                values[piece.where] = piece.arrange(self.entries[piece.tensor].read())
            return values

    def _match(
        self, folder: Folder, family: Family, config: DecoderConfig, tensors: dict[str, TensorEntry]
    ) -> dict[str, TensorEntry]:
        """The entry for each tensor that the parameters need, by its full name."""
        entries: dict[str, TensorEntry] = {}
        left = dict(tensors)
        for target in self.targets.values():
            for piece in target.pieces:
                name = piece.tensor.removeprefix(self.strip)
                entry = left.pop(name, None)
                if entry is None:
                    raise CheckpointError(f"{folder}: tensor {name!r} is missing ({_why(piece.tensor, config)})")
                _check(entry, piece.shape)
                entries[piece.tensor] = entry
        if config.tie_embeddings and HEAD in left:
            _check_tied(left.pop(HEAD), entries[self.targets[("embedding",)].pieces[0].tensor])
        _refuse_rest(folder, family, config, left)
        return entries


def fill(weights: CheckpointWeights, model: nnx.Module, dtype: np.dtype, progress: Progress) -> nnx.Module:
    """`model`, built without memory, with every parameter read, converted to `dtype` and put on the device.

    Stacked layers (see `scan.py`) are filled in place, layer by layer.
    """
    graph, state = nnx.split(model)
    filled, done = [], 0
    for path, variable in nnx.to_flat_state(state):
        shape = variable.get_value().shape
        if weights.is_stacked(path):
            array = jnp.zeros(shape, dtype)
            for i in range(shape[0]):
                array = _set_layer(array, weights.read(_in_layer(path, i), shape[1:], dtype), i).block_until_ready()
        else:
            # without the waits, transfers would pile up and hold the whole model on the host
            array = jax.device_put(weights.read(path, shape, dtype)).block_until_ready()
        filled.append((path, variable.replace(array)))
        done += weights.size(path)
        progress(done, weights.total_bytes, ".".join(map(str, path)))
    return nnx.merge(graph, nnx.from_flat_state(filled))


@partial(jax.jit, donate_argnums=0)
def _set_layer(stacked: Array, values: Array, layer: int) -> Array:
    return stacked.at[layer].set(values)


def _in_layer(path: Path, layer: int) -> Path:
    """The path in one of the layers of a path in their stack."""
    return (path[0], layer, *path[1:])


def _check(entry: TensorEntry, shape: tuple[int, ...]) -> None:
    if entry.shape != shape:
        raise CheckpointError(
            f"{entry.file}: tensor {entry.name!r} has shape {list(entry.shape)}, but config.json asks for {list(shape)}"
        )
    if entry.kind not in READABLE:
        raise CheckpointError(
            f"{entry.file}: tensor {entry.name!r} is {entry.kind}, but weights must be {', '.join(READABLE)}"
        )


def _why(tensor: str, config: DecoderConfig) -> str:
    if tensor == HEAD:
        return "tie_word_embeddings is false in config.json"
    return f"config.json describes {config.num_layers} layers of family {config.family}"


def _check_tied(head: TensorEntry, embedding: TensorEntry) -> None:
    """A head beside tied embeddings is harmless when it repeats them, and a contradiction when it does not."""
    same = head.shape == embedding.shape and head.kind == embedding.kind
    if not same or not np.array_equal(head.read(), embedding.read()):
        raise CheckpointError(
            f"{head.file}: tensor {HEAD!r} differs from the embedding, but tie_word_embeddings is true in config.json"
        )


def _refuse_rest(folder: Folder, family: Family, config: DecoderConfig, left: dict[str, TensorEntry]) -> None:
    rest = [n for n in left if not family.harmless.fullmatch(n.removeprefix(family.optional_prefix))]
    if rest:
        more = f" and {len(rest) - 1} more" if len(rest) > 1 else ""
        raise CheckpointError(
            f"{left[rest[0]].file}: tensor {rest[0]!r}{more} {'have' if more else 'has'} no place in this model "
            f"(config.json describes {config.num_layers} layers of family {config.family})"
        )
