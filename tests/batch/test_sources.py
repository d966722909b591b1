"""Every kind of source through the same door, and what is said where a reader is missing."""

import builtins
import json

import pyarrow as pa
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from pyarrow import parquet

from orca_jax.batch.paths import Paths
from orca_jax.batch.pipeline import Order
from orca_jax.batch.sources import open_source
from orca_jax.batch.words import BatchError
from tests.batch.doubles import EchoAnswerer
from tests.batch.runs import line, records, run_batch

PROMPTS = ["def f(", "import os", "é☃", "{not json"]


def answers(paths: Paths) -> list[tuple[str, str]]:
    return [(record["custom_id"], record["response"]["body"]["text"]) for record in records(paths.output)]


def expected(numbers=(1, 2, 3, 4)) -> list[tuple[str, str]]:
    return [(str(number), prompt[::-1]) for number, prompt in zip(numbers, PROMPTS, strict=True)]


def write_array_records(path, items) -> None:
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for item in items:
        writer.write(item)
    writer.close()


@pytest.fixture
def names(tmp_path):
    return lambda name: Paths.named(tmp_path / name, tmp_path / "out.jsonl")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_text(make, end):
    paths = make(PROMPTS[0], "", *PROMPTS[1:], name="in.txt", end=end)
    run_batch(paths, EchoAnswerer())
    assert answers(paths) == expected((1, 3, 4, 5))


@pytest.mark.parametrize("name", ["in.jsonl", "in.ndjson", "in.json"])
def test_json_with_a_prompt_field(make, name):
    paths = make(*[json.dumps({"prompt": prompt, "seed": n}) for n, prompt in enumerate(PROMPTS)], "[]", name=name)
    assert run_batch(paths, EchoAnswerer()).failed == 1
    assert answers(paths) == expected()
    assert [record["response"]["body"]["seed"] for record in records(paths.output)] == [0, 1, 2, 3]


def test_parquet(names):
    paths = names("in.parquet")
    table = pa.table({"other": [1, 2, 3, 4, 5], "prompt": [*PROMPTS, None]})
    parquet.write_table(table, paths.source, row_group_size=2)
    run_batch(paths, EchoAnswerer())
    assert answers(paths) == expected()
    assert records(paths.errors)[0]["error"]["message"] == (
        "row 5: prompt must be a string or a list of token ids, got None"
    )
    with pytest.raises(BatchError, match="has no column 'text' but other, prompt"):
        open_source(paths.source, url="/v1/completions", prompt_field="text", defaults={})
    paths.source.write_bytes(b"PAR1 but no more")
    with pytest.raises(BatchError, match=r"cannot read .*in\.parquet as Parquet"):
        open_source(paths.source, url="/v1/completions", prompt_field="prompt", defaults={})


@pytest.mark.parametrize(
    "items",
    [
        [prompt.encode() for prompt in PROMPTS],
        [json.dumps({"prompt": prompt}).encode() for prompt in PROMPTS],
        [line(str(n), prompt).encode() for n, prompt in enumerate(PROMPTS, 1)],
    ],
    ids=["text", "prompts", "openai"],
)
def test_array_record(names, items):
    paths = names("in.array_record")
    write_array_records(paths.source, items)
    run_batch(paths, EchoAnswerer(), order=Order(seed=2))
    assert sorted(answers(paths)) == expected()


def test_what_is_no_array_record_is_named(names):
    paths = names("in.arrayrecord")
    paths.source.write_bytes(b"x" * 100_000)
    with pytest.raises(BatchError, match=r"cannot read .*in\.arrayrecord as ArrayRecord"):
        open_source(paths.source, url="/v1/completions", prompt_field="prompt", defaults={})


def test_a_suffix_that_says_nothing_asks_for_the_format(make):
    paths = make(*PROMPTS, name="in.dat")
    with pytest.raises(BatchError, match="--format openai, prompts, text, parquet, arrayrecord"):
        run_batch(paths, EchoAnswerer())
    run_batch(paths, EchoAnswerer(), kind="text")
    assert answers(paths) == expected()


@pytest.mark.parametrize(
    ("name", "library", "package"),
    [("in.parquet", "pyarrow", "pyarrow"), ("in.array_record", "grain", "array-record"), ("in.txt", "grain", "grain")],
)
def test_a_missing_library_is_named_with_the_way_to_it(make, monkeypatch, name, library, package):
    paths = make(*PROMPTS, name=name)
    original = builtins.__import__

    def without(module, *args):
        if module.split(".")[0] == library:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        return original(module, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BatchError, match=rf"{package}, which is not installed \(pip install 'orca-jax\[batch\]'\)"):
        run_batch(paths, EchoAnswerer())
