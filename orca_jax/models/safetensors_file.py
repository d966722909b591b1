"""Reading safetensors files tensor by tensor.

The header is checked here, not by the safetensors package, for two reasons: an error must name the file and the tensor,
and a tensor must reach the host once, in its own type (bfloat16 too), without a map of the file that dies with SIGBUS when
somebody truncates it. A test holds this reader to accepting nothing that the package refuses.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from orca_jax.core.errors import CheckpointError
from orca_jax.models.fields import brief
from orca_jax.models.json_file import parse_object, read_json

MAX_HEADER = 16 * 2**20
BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
READABLE: dict[str, np.dtype] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies: `count` elements of type `kind` from byte `offset` of `file`."""

    name: str
    file: Path
    kind: str
    shape: tuple[int, ...]
    offset: int

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.count * BYTES[self.kind]

    def read(self) -> np.ndarray:
        """The tensor, in a host array of its own. Raises CheckpointError when the file has shrunk meanwhile."""
        try:
            values = np.fromfile(self.file, READABLE[self.kind], self.count, offset=self.offset)
        except OSError as error:
            raise CheckpointError(f"{self.file}: cannot read tensor {self.name!r}: {error.strerror}") from error
        if values.size != self.count:
            raise CheckpointError(f"{self.file} changed while it was read: tensor {self.name!r} is cut off")
        return values.reshape(self.shape)


def scan_folder(folder: Path) -> tuple[dict[str, TensorEntry], str]:
    """All tensors of a checkpoint folder by name, and a digest of the headers that describe them.

    Reads headers only. Raises CheckpointError naming the file and the tensor.
    """
    digest = hashlib.sha256()
    if (folder / WEIGHTS).exists():
        return scan_file(folder / WEIGHTS, digest), digest.hexdigest()
    if not (folder / INDEX).exists():
        raise CheckpointError(_no_weights(folder))
    placed = _read_index(folder / INDEX)
    tensors: dict[str, TensorEntry] = {}
    for file in sorted(set(placed.values())):
        if not (folder / file).is_file():
            raise CheckpointError(f"{folder / INDEX} names {file}, which is not in the folder (incomplete download?)")
        found = scan_file(folder / file, digest)
        stray = next((name for name in found if placed.get(name) != file), None)
        if stray is not None:
            raise CheckpointError(f"{folder / file} holds tensor {stray!r}, which {INDEX} does not place there")
        tensors |= found
    missing = next((name for name in placed if name not in tensors), None)
    if missing is not None:
        raise CheckpointError(f"{folder / placed[missing]} has no tensor {missing!r}, which {INDEX} places there")
    return tensors, digest.hexdigest()


def scan_file(path: Path, digest: "hashlib._Hash | None" = None) -> dict[str, TensorEntry]:
    """The tensors of one file. The data must follow the header without holes, overlaps or anything after it."""
    header, start, size = _read_header(path)
    if digest is not None:
        digest.update(header + size.to_bytes(8, "little"))
    table = parse_object(header, f"{path}: header")
    table.pop("__metadata__", None)
    entries = [_entry(path, name, value, start) for name, value in table.items()]
    at, last = start, "the header"
    for entry in sorted(entries, key=lambda e: (e.offset, e.num_bytes)):
        if entry.offset != at:
            problem = "overlaps" if entry.offset < at else "leaves a hole after"
            raise CheckpointError(f"{path}: tensor {entry.name!r} {problem} {last}")
        at, last = at + entry.num_bytes, repr(entry.name)
    if at != size:
        state = f"{at - size} bytes short (incomplete download?)" if at > size else f"{size - at} bytes too long"
        raise CheckpointError(f"{path} is {state}: its header describes {at} bytes")
    return {entry.name: entry for entry in entries}


def _read_header(path: Path) -> tuple[bytes, int, int]:
    """The header's bytes, where the data starts, and the size of the file."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            first = file.read(512)
            disguise = _disguise(first)
            if disguise is not None:
                raise CheckpointError(f"{path} is no safetensors file but {disguise}")
            length = int.from_bytes(first[:8], "little")
            if size < 10 or length > size - 8:
                raise CheckpointError(
                    f"{path} has no safetensors header: {size} bytes, of which {length} would be header"
                )
            if length > MAX_HEADER:
                raise CheckpointError(f"{path} has a header of {length} bytes, but at most {MAX_HEADER} are read")
            file.seek(8)
            return file.read(length), 8 + length, size
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error


def _disguise(first: bytes) -> str | None:
    """What the file is if its first bytes say that it is something else."""
    if first[8:9] == b"{":
        return None
    if first.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer (fetch the weights with: git lfs pull)"
    if first.startswith(b"PK\x03\x04"):
        return "a zip archive, as torch.save writes: convert it to safetensors"
    if first[:1] == b"\x80" and first[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle, which is never loaded: convert it to safetensors"
    if first.startswith(b"GGUF"):
        return "a GGUF file: convert it to safetensors"
    if first.lstrip()[:1] == b"<":
        return "an HTML or XML page (a failed download?)"
    return None


def _entry(path: Path, name: str, value: object, start: int) -> TensorEntry:
    def bad(why: str) -> CheckpointError:
        return CheckpointError(f"{path}: tensor {brief(name)}: {why}")

    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise bad("dtype, shape and data_offsets are needed")
    kind, shape, span = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(kind, str) or kind not in BYTES:
        raise bad(f"dtype {brief(kind)} is unknown")
    if not _naturals(shape) or len(shape) > 16:
        raise bad(f"shape {brief(shape)} is not a list of sizes")
    if not _naturals(span) or len(span) != 2:
        raise bad(f"data_offsets {brief(span)} is not a pair of offsets")
    entry = TensorEntry(name, path, kind, tuple(shape), start + span[0])
    if span[1] - span[0] != entry.num_bytes:
        raise bad(
            f"shape {brief(shape)} of {kind} needs {entry.num_bytes} bytes, but data_offsets give {span[1] - span[0]}"
        )
    return entry


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _read_index(path: Path) -> dict[str, str]:
    """Tensor name -> file name, every file name a plain name of the same folder."""
    placed = read_json(path, MAX_HEADER).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise CheckpointError(f"{path}: weight_map is missing or empty")
    for name, file in placed.items():
        plain = isinstance(file, str) and Path(file).name == file and file.endswith(".safetensors")
        if not plain:
            raise CheckpointError(f"{path}: weight_map[{brief(name)}] = {brief(file)} is no .safetensors file name")
    return placed


def _no_weights(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} is no folder"
    other = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack"))
    if other:
        return f"{folder} has weights only as {other[0]}, which is never loaded (pickle can run code): convert to safetensors"
    loose = sorted(p.name for p in folder.iterdir() if p.suffix in (".safetensors", ".gguf"))
    found = f" (found {loose[0]})" if loose else ""
    return f"{folder} has neither {WEIGHTS} nor {INDEX}{found}; weights are read from safetensors only"
