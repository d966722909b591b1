"""Which reader and which decoder a file wants: by what was asked for, its suffix, and its first line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orca_jax.batch.decode import Decode, PromptDecoder, looks_like, openai_item
from orca_jax.batch.line_file import LineFile
from orca_jax.batch.pipeline import Records
from orca_jax.batch.tables import ArrayRecordFile, ParquetColumn
from orca_jax.batch.words import BatchError, LineError

FORMATS = ("openai", "prompts", "text", "parquet", "arrayrecord")
_SUFFIXES = {
    ".jsonl": "json", ".ndjson": "json", ".json": "json", ".txt": "text", ".parquet": "parquet",
    ".arrayrecord": "arrayrecord", ".array_record": "arrayrecord",
}  # fmt: skip


def open_source(
    path: Path, asked: str | None = None, *, url: str, prompt_field: str, defaults: Mapping[str, Any]
) -> tuple[Records, Decode]:
    """A file's records and what they say. `asked` is one of FORMATS, None goes by suffix and first line.

    Where the file is not in OpenAI's format, prompts go to `url` with the fields of `defaults`. Raises BatchError.
    """
    decoder = PromptDecoder(url, prompt_field, defaults)
    kind = _SUFFIXES.get(path.suffix.lower()) if asked is None else asked
    if kind is None:
        raise BatchError(f"{path}: its suffix says nothing about its format (--format {', '.join(FORMATS)})")
    if kind == "parquet":
        return ParquetColumn(path, prompt_field), decoder.from_value
    records: Records = ArrayRecordFile(path) if kind == "arrayrecord" else LineFile(path)
    if kind in ("json", "arrayrecord"):
        kind = _content(records, "text" if kind == "arrayrecord" else "openai")
    decoders: dict[str, Decode] = {"openai": openai_item, "prompts": decoder.from_json, "text": decoder.from_text}
    return records, decoders[kind]


def _content(records: Records, otherwise: str) -> str:
    """What the first record looks like; `otherwise` where it is no JSON object."""
    if len(records) == 0:
        return otherwise
    try:
        found = looks_like(records.read(0))
    except LineError:
        return otherwise
    return otherwise if found == "text" else found
