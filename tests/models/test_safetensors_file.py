"""The safetensors reader: right about good files, and never laxer than the safetensors package about bad ones."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors import deserialize as package_deserialize
from safetensors.numpy import save, save_file

from orca_jax.core.errors import CheckpointError
from orca_jax.models.safetensors_file import MAX_HEADER, scan_file, scan_folder

TWO = {
    "a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
    "b": {"dtype": "BF16", "shape": [3], "data_offsets": [8, 14]},
}


def raw(header: object, data: bytes = bytes(14)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def changed(tensor: str, **fields: object) -> dict:
    return {**TWO, tensor: {**TWO[tensor], **fields}}


def write(folder: Path, data: bytes) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    return path


def test_tensors_come_back_as_they_were_saved(tmp_path: Path):
    rng = np.random.default_rng(0)
    saved = {
        "f32": rng.normal(size=(3, 5)).astype(np.float32),
        "f16": rng.normal(size=(7,)).astype(np.float16),
        "bf16": rng.normal(size=(2, 1, 3)).astype(ml_dtypes.bfloat16),
        "none": np.zeros((0, 4), np.float32),
        "scalar": np.array(2.5, np.float32),
    }
    save_file(saved, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = scan_file(tmp_path / "model.safetensors")
    assert set(found) == set(saved)
    for name, values in saved.items():
        read = found[name].read()
        assert read.dtype == values.dtype and read.shape == values.shape
        np.testing.assert_array_equal(read, values)


BAD = {
    "header is no JSON": (raw(b'{"a": '), "header is not valid JSON"),
    "header is a list": (raw([]), "holds a list"),
    "key twice": (raw(b'{"a": 1, "a": 2}'), "'a' occurs twice"),
    "empty file": (b"", "no safetensors header: 0 bytes"),
    "header longer than the file": ((10**12).to_bytes(8, "little") + b"{}", "of which 1000000000000 would be header"),
    "overlap": (raw(changed("b", data_offsets=[4, 10]), bytes(10)), "'b' overlaps 'a'"),
    "hole": (raw(changed("b", data_offsets=[10, 16]), bytes(16)), "'b' leaves a hole after 'a'"),
    "negative offset": (raw(changed("a", data_offsets=[-8, 0])), "'a': data_offsets [-8, 0] is not a pair"),
    "offsets swapped": (raw(changed("a", data_offsets=[8, 0])), "needs 8 bytes, but data_offsets give -8"),
    "past the end": (raw(TWO, bytes(13)), "1 bytes short (incomplete download?)"),
    "bytes appended": (raw(TWO, bytes(15)), "1 bytes too long"),
    "unknown dtype": (raw(changed("a", dtype="F13")), "'a': dtype 'F13' is unknown"),
    "dtype is a list": (raw(changed("a", dtype=["F32"])), "'a': dtype ['F32'] is unknown"),
    "shape too large": (raw(changed("a", shape=[2**40, 1])), "'a': shape [1099511627776, 1] of F32 needs"),
    "shape negative": (raw(changed("a", shape=[-1, 2])), "'a': shape [-1, 2] is not a list of sizes"),
    "shape of bools": (raw(changed("a", shape=[True, 2])), "'a': shape [True, 2] is not a list of sizes"),
    "zero in shape": (raw(changed("a", shape=[0, 1])), "'a': shape [0, 1] of F32 needs 0 bytes"),
    "key missing": (raw({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)), "'a': dtype, shape and data_offsets are needed"),
    "key unknown": (raw(changed("a", extra=1)), "'a': dtype, shape and data_offsets are needed"),
    "pickle": (b"\x80\x04\x95" + bytes(40), "a Python pickle, which is never loaded: convert it to safetensors"),
    "zip": (b"PK\x03\x04" + bytes(40), "a zip archive, as torch.save writes"),
    "html": (b"<!DOCTYPE html><html>not found</html>", "an HTML or XML page (a failed download?)"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n", "git lfs pull"),
    "gguf": (b"GGUF" + bytes(40), "a GGUF file"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_refused_with_a_line_that_names_it(what: str, tmp_path: Path):
    data, message = BAD[what]
    path = write(tmp_path, data)
    with pytest.raises(CheckpointError) as refusal:
        scan_file(path)
    assert message in str(refusal.value)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_large_header_is_not_even_read(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write((MAX_HEADER + 1).to_bytes(8, "little") + b"{")
        file.truncate(MAX_HEADER + 100)
    with pytest.raises(CheckpointError, match=f"header of {MAX_HEADER + 1} bytes, but at most"):
        scan_file(path)


def test_a_file_that_shrinks_after_the_check_is_noticed(tmp_path: Path):
    path = write(tmp_path, raw(TWO))
    entry = scan_file(path)["b"]
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(CheckpointError, match=r"changed while it was read: tensor 'b' is cut off"):
        entry.read()


GOOD = save({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float16)})


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=3), st.integers(-3, 3))
def test_it_accepts_nothing_that_the_package_refuses(tmp_path_factory, flips: list[tuple[int, int]], cut: int):
    data = bytearray(GOOD)
    for at, value in flips:
        data[at] = value
    data = data[:cut] if cut < 0 else data + bytes(cut)
    path = write(tmp_path_factory.mktemp("flipped"), bytes(data))
    try:
        ours = scan_file(path)
    except CheckpointError:
        return
    try:
        theirs = dict(package_deserialize(bytes(data)))
    except SafetensorError as error:
        pytest.fail(f"accepted what the package refuses: {error}")
    assert {name: list(entry.shape) for name, entry in ours.items()} == {n: list(t["shape"]) for n, t in theirs.items()}


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_and_nothing_worse(tmp_path_factory, data: bytes):
    with pytest.raises(CheckpointError):
        scan_file(write(tmp_path_factory.mktemp("noise"), data))


INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "../x.safetensors"}, "weight_map['a'] = '../x.safetensors' is no .safetensors file name"),
        ({"a": "x.bin"}, "weight_map['a'] = 'x.bin' is no .safetensors file name"),
        ({"a": 3}, "weight_map['a'] = 3 is no .safetensors file name"),
        ({"a": "y.safetensors"}, "names y.safetensors, which is not in the folder (incomplete download?)"),
        ({"a": "x.safetensors"}, "holds tensor 'b', which model.safetensors.index.json does not place there"),
        (dict.fromkeys("abc", "x.safetensors"), "has no tensor 'c', which model.safetensors.index.json places there"),
        ({}, "weight_map is missing or empty"),
        ([], "weight_map is missing or empty"),
    ],
)
def test_an_index_that_does_not_fit_its_files_is_refused(weight_map: object, message: str, tmp_path: Path):
    (tmp_path / "x.safetensors").write_bytes(raw(TWO))
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError) as refusal:
        scan_folder(tmp_path)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "has neither model.safetensors nor model.safetensors.index.json; weights"),
        (["pytorch_model.bin"], "only as pytorch_model.bin, which is never loaded (pickle can run code)"),
        (["adapter_model.safetensors"], "(found adapter_model.safetensors)"),
    ],
)
def test_a_folder_without_weights_says_what_it_has_instead(names: list[str], message: str, tmp_path: Path):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(CheckpointError) as refusal:
        scan_folder(tmp_path)
    assert message in str(refusal.value)
