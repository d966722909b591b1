"""Recovery from every tear, and disks that fill up at every byte."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orca_jax.batch.append_file import AppendFile, OsFile
from orca_jax.batch.words import BatchError
from tests.batch.doubles import SmallDisk

LINES = [json.dumps({"id": i, "text": "é\n\r\u2028☃" * i}, ensure_ascii=False).encode() + b"\n" for i in range(5)]
WHOLE = b"".join(LINES)


def recovered(disk: SmallDisk) -> tuple[AppendFile, list[int]]:
    found: list[int] = []
    file = AppendFile(disk, "out")
    file.recover(lambda record: "id" in record and found.append(record["id"]) is None)
    return file, found


@pytest.mark.parametrize("cut", range(len(WHOLE) + 1))
def test_a_file_cut_anywhere_keeps_its_whole_lines_and_goes_on(cut):
    disk = SmallDisk(WHOLE[:cut])
    file, found = recovered(disk)
    assert WHOLE.startswith(bytes(disk.content)) and disk.content.count(b"\n") == len(found)
    assert found == list(range(WHOLE[:cut].count(b"\n")))
    file.append(LINES[len(found) :])
    assert disk.content == WHOLE


@pytest.mark.parametrize("capacity", range(len(WHOLE)))
def test_a_disk_that_is_full_at_any_byte_tears_nothing(capacity):
    disk = SmallDisk(capacity=capacity)
    file, _ = recovered(disk)
    with pytest.raises(BatchError, match="cannot write out: No space left on device"):
        for line in LINES:
            file.append([line])
    kept = len(disk.content)
    assert WHOLE.startswith(bytes(disk.content)) and (kept == 0 or disk.content.endswith(b"\n"))
    disk.capacity = 2**40
    again, found = recovered(disk)
    again.append(LINES[len(found) :])
    assert disk.content == WHOLE


@given(cut=st.integers(0, len(WHOLE)), garbage=st.binary(max_size=40))
@settings(max_examples=200)
def test_garbage_behind_a_tear_never_reaches_a_reader(cut, garbage):
    """A file system may show a crash as zeros or old blocks."""
    disk = SmallDisk(WHOLE[:cut] + garbage)
    _, found = recovered(disk)
    whole = WHOLE[:cut].count(b"\n")
    assert found[:whole] == list(range(whole))
    kept = bytes(disk.content).splitlines(keepends=True)
    assert all(line.endswith(b"\n") for line in kept) and [json.loads(line)["id"] for line in kept] == found


def test_what_is_not_accepted_is_cut_with_all_behind_it():
    disk = SmallDisk(WHOLE)
    AppendFile(disk, "out").recover(lambda record: record["id"] != 2)
    assert disk.content == b"".join(LINES[:2])


def test_records_longer_than_a_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr("orca_jax.batch.append_file.CHUNK", 7)
    path = tmp_path / "file"
    path.write_bytes(WHOLE + b'{"torn')
    file = AppendFile(OsFile(path), str(path))
    found: list[int] = []
    file.recover(lambda record: found.append(record["id"]) is None)
    file.append([b'{"id":9}\n'])
    file.sync()
    file.close()
    assert found == [0, 1, 2, 3, 4] and path.read_bytes() == WHOLE + b'{"id":9}\n'


def test_a_limit_of_the_system_is_one_clear_error(tmp_path):
    """A real file over a real limit, in a process of its own: there every write over it fails as on a full disk."""
    import subprocess
    import sys

    code = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from orca_jax.batch.append_file import AppendFile, OsFile\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "file = AppendFile(OsFile(Path(sys.argv[1])), 'out.jsonl')\nfile.recover(lambda record: True)\n"
        "try:\n    [file.append([b'{\"n\": 12345678}\\n']) for _ in range(99)]\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )
    path = tmp_path / "out"
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert result.stdout.startswith("BatchError cannot write out.jsonl: File too large")
    assert path.read_bytes() == b'{"n": 12345678}\n' * 6
