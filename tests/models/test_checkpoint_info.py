"""What a checkpoint says about itself, and the refusal of files that say nonsense."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from orca_jax.core.errors import CheckpointError, ConfigError
from orca_jax.models.checkpoint import read_checkpoint
from orca_jax.models.json_file import MAX_BYTES
from orca_jax.models.load import load_model

Edit = Callable[..., Path]


def test_ids_and_sampling_defaults_come_from_the_generation_config_first(edit_config: Edit):
    folder = edit_config(eos_token_id=[1, 2], bos_token_id=3, pad_token_id=-1)
    assert read_checkpoint(folder)[1].eos_token_ids == (1, 2)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 7, "temperature": 0.5, "top_k": 9}))
    info = read_checkpoint(folder)[1]
    assert (info.eos_token_ids, info.bos_token_id, info.pad_token_id) == ((7,), 3, None)
    assert info.generation == {"temperature": 0.5, "top_k": 9}
    assert info.max_context == 128 and info.folder == folder


def test_the_config_s_own_end_is_checked_even_where_it_is_not_used(edit_config: Edit):
    folder = edit_config(eos_token_id=99999)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 7}))
    with pytest.raises(CheckpointError, match=r"config\.json: eos_token_id = 99999"):
        read_checkpoint(folder)


def test_no_end_of_sequence_is_possible(edit_config: Edit):
    assert read_checkpoint(edit_config(eos_token_id=None))[1].eos_token_ids == ()


def test_the_type_is_read_in_both_spellings(edit_config: Edit):
    assert read_checkpoint(edit_config(dtype=..., torch_dtype="bfloat16"))[1].dtype == "bfloat16"
    assert read_checkpoint(edit_config(dtype="float16", torch_dtype=...))[1].dtype == "float16"
    assert read_checkpoint(edit_config(dtype=...))[1].dtype is None


BAD = [
    ({"eos_token_id": 256}, "eos_token_id = 256, but token ids from 0 to 255 are needed (vocab_size = 256)"),
    ({"eos_token_id": [1, -1]}, "eos_token_id = [1, -1], but token ids from 0 to 255"),
    ({"eos_token_id": "</s>"}, "eos_token_id = '</s>', but token ids"),
    ({"eos_token_id": True}, "eos_token_id = true, but token ids"),
    ({"bos_token_id": 300}, "bos_token_id = 300, but an integer from 0 to 255"),
    ({"dtype": "float8_e4m3fn"}, "dtype = 'float8_e4m3fn', but one of float32, bfloat16, float16"),
    ({"torch_dtype": "float16"}, "torch_dtype = 'float16', but dtype = 'float32': keep one of them"),
    ({"quantization_config": {"quant_method": "gptq"}}, "quantised weights are not supported (quant_method 'gptq')"),
    ({"quantization_config": 8}, "quantization_config = 8, but an object is needed"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_facts_are_refused(changes: dict[str, object], message: str, edit_config: Edit):
    folder = edit_config(**changes)
    with pytest.raises(CheckpointError) as refusal:
        load_model(folder)
    assert message in str(refusal.value) and str(folder / "config.json") in str(refusal.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1}, "temperature = -1, but a number from 0 to 100"),
        ({"top_p": 1.5}, "top_p = 1.5, but a number from 0 to 1"),
        ({"repetition_penalty": 0}, "repetition_penalty = 0, but a number from 1e-06"),
        ({"top_k": 0.5}, "top_k = 0.5, but an integer from -1"),
        ({"eos_token_id": 999}, "eos_token_id = 999, but token ids from 0 to 255"),
    ],
)
def test_bad_sampling_defaults_are_refused(values: dict[str, object], message: str, checkpoint: Path):
    (checkpoint / "generation_config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError) as refusal:
        load_model(checkpoint)
    assert message in str(refusal.value) and "generation_config.json" in str(refusal.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"not json", "is not valid JSON: Expecting value"),
        (b'{"a": 1,}', "is not valid JSON"),
        (b'{"hidden_size": NaN}', "is not valid JSON: NaN is not a JSON number"),
        (b'{"hidden_size": 1, "hidden_size": 2}', "key 'hidden_size' occurs twice"),
        (b"[]", "holds a list, but a JSON object is needed"),
        (b'"\xff"', "is not UTF-8 (byte 1)"),
        (b'{"a": ' + b"[" * 200_000, "is n"),  # nested too deeply, or not valid: by the version of Python
        (b'{"a": 1' + b"0" * 10_000 + b"}", "is not valid JSON"),
        (b" " * (MAX_BYTES + 1), f"is larger than {MAX_BYTES} bytes"),
    ],
    ids=["text", "comma", "nan", "twice", "list", "utf8", "deep", "digits", "large"],
)
def test_a_config_that_is_no_json_object_is_refused(data: bytes, message: str, checkpoint: Path):
    (checkpoint / "config.json").write_bytes(data)
    with pytest.raises(CheckpointError) as refusal:
        load_model(checkpoint)
    assert message in str(refusal.value) and str(checkpoint / "config.json") in str(refusal.value)


def test_a_folder_without_a_config_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"config.json does not exist"):
        load_model(tmp_path)


def test_a_folder_that_is_none_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="is neither a folder nor a Hub id such as 'org/name'"):
        load_model(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="is neither a folder nor a Hub id"):
        load_model(str(tmp_path / "file"))


def test_a_revision_of_a_local_folder_is_refused(checkpoint: Path):
    with pytest.raises(ConfigError, match=r"revision = 'main' means nothing for .*, which is not fetched"):
        load_model(checkpoint, revision="main")
