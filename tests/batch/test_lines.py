"""Lines: where they begin, what they say, and the error of each that says nothing."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_jax.batch import line_file
from orca_jax.batch.decode import PromptDecoder, looks_like, openai_item
from orca_jax.batch.line_file import LineFile
from orca_jax.batch.words import BatchError, LineError

GOOD = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}


def read_all(path: Path) -> dict[int, bytes]:
    file = LineFile(path)
    found = {file.number(index): file.read(index) for index in range(len(file))}
    file.check_unchanged()
    file.close()
    return found


@given(
    lines=st.lists(st.sampled_from([b"", b" ", b"a", b'{"b": 1}', b"\t\t", "é☃".encode(), b"x" * 40]), max_size=12),
    end=st.sampled_from([b"\n", b"\r\n"]), bom=st.booleans(), last=st.booleans(), chunk=st.integers(3, 50),
)  # fmt: skip
def test_lines_are_what_splitting_gives_whatever_the_chunks(lines, end, bom, last, chunk, tmp_path_factory):
    path = tmp_path_factory.mktemp("lines") / "file"
    data = end.join(lines) + (end if last else b"")
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_file, "CHUNK", chunk)
        found = read_all(path)
    expected = {number: text for number, text in enumerate(data.split(b"\n"), 1) if text.strip()}
    assert found == expected


def test_the_fingerprint_is_the_contents(tmp_path):
    (tmp_path / "a").write_text("x\ny\n")
    (tmp_path / "b").write_text("x\ny\n")
    (tmp_path / "c").write_text("x\nz\n")
    a, b, c = (LineFile(tmp_path / name) for name in "abc")
    assert a.digest == b.digest != c.digest
    for file in (a, b, c):
        file.close()


def test_a_line_that_is_too_long_is_refused_unread_and_the_next_one_is_read(tmp_path, monkeypatch):
    path = tmp_path / "in"
    path.write_bytes(b"a" * 101 + b"\nshort\n")
    file = LineFile(path, max_line_bytes=100)
    with pytest.raises(LineError, match="101 bytes, but a line may have 100"):
        monkeypatch.setattr(line_file.os, "pread", None)
        file.read(0)
    monkeypatch.undo()
    assert file.read(1) == b"short"
    file.close()


def test_a_line_of_a_quarter_gigabyte_is_never_in_memory(tmp_path):
    """The file is a hole of zeros, so that it costs no disk either."""
    import resource

    path = tmp_path / "in"
    with path.open("wb") as file:
        file.truncate(2**28)
        file.seek(0, 2)
        file.write(b"\nx\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = LineFile(path)
    assert len(found) == 2
    with pytest.raises(LineError, match="268435456 bytes"):
        found.read(0)
    assert found.read(1) == b"x"
    found.close()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB


def test_a_change_under_way_is_noticed(tmp_path):
    path = tmp_path / "in"
    path.write_text("one\ntwo\n")
    file = LineFile(path)
    path.write_text("one\n")
    with pytest.raises(BatchError, match="was changed while it was read"):
        file.read(1)
    with pytest.raises(BatchError, match="was changed while it was read"):
        file.check_unchanged()
    file.close()


def test_utf_16_is_named(tmp_path):
    path = tmp_path / "in"
    path.write_bytes("text".encode("utf-16"))
    with pytest.raises(BatchError, match="UTF-16"):
        LineFile(path)


def test_a_good_line():
    item = openai_item(7, json.dumps(GOOD).encode() + b"\r")
    assert (item.number, item.custom_id, item.url, item.body) == (7, "a", "/v1/completions", {"prompt": "x"})


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"custom_id": None}, "invalid_custom_id", "custom_id must be a string"),
        ({"custom_id": ""}, "invalid_custom_id", "1 to 512 characters, got 0"),
        ({"custom_id": "x" * 513}, "invalid_custom_id", "got 513"),
        ({"custom_id": "\ud800"}, "invalid_custom_id", "unpaired surrogate"),
        ({"method": "GET"}, "invalid_method", "method must be 'POST', got 'GET'"),
        ({"url": None}, "missing_url", "url is missing"),
        ({"url": "/v1/embeddings"}, "unknown_url", "url '/v1/embeddings' is not served"),
        ({"url": ["/v1/completions"]}, "unknown_url", "url a list of 1"),
        ({"body": []}, "invalid_body", "body must be a JSON object"),
        ({"body": {"prompt": "x", "stream": True}}, "stream_not_supported", "stream = true"),
        ({"custom_ids": 1}, "unknown_field", "did you mean 'custom_id'"),
    ],
)
def test_a_bad_field_is_named(change, code, message):
    with pytest.raises(LineError, match=message.replace("(", r"\(")) as caught:
        openai_item(1, json.dumps(GOOD | change).encode())
    assert caught.value.code == code and len(str(caught.value)) < 200
    assert caught.value.custom_id == (None if "custom_id" in change else "a")


@pytest.mark.parametrize("missing", ["custom_id", "url", "body"])
def test_a_missing_field_is_named(missing):
    with pytest.raises(LineError, match=missing):
        openai_item(1, json.dumps({key: value for key, value in GOOD.items() if key != missing}).encode())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"custom_id": "a"', "not valid JSON: .* at column 18"),
        (b'{"a": NaN}', "NaN is not a number there"),
        (b'{"a": -Infinity}', "the line is not valid JSON: -Infinity is not"),
        (b'{"a": ' + b"9" * 5000 + b"}", "the line holds a number with too many digits"),
        (b"[" * 100_000, "nested deeper than 100|not valid JSON"),
        (b"[" * 101 + b"]" * 101, "the line is nested deeper than 100"),
        (b'{"a": 1, "a": 2}', "names 'a' more than once"),
        (b"[1]", "a JSON object is needed, got a list of 1"),
        (b'{"a": "\xff"}', r"not UTF-8 text \(byte 7"),
        (b"\x00", "not valid JSON"),
    ],
)
def test_what_is_no_json_object_says_why(data, message):
    with pytest.raises(LineError, match=message):
        openai_item(1, data)


def test_prompts_without_an_envelope():
    plain = PromptDecoder("/v1/completions", "text", {"max_tokens": 5, "seed": 1})
    assert plain.from_text(3, b"def f(\r").body == {"prompt": "def f(", "max_tokens": 5, "seed": 1}
    item = plain.from_json(3, b'{"text": [1, 2], "seed": 9}')
    assert (item.custom_id, item.body) == ("3", {"prompt": [1, 2], "max_tokens": 5, "seed": 9})
    chat = PromptDecoder("/v1/chat/completions", "text", {})
    assert chat.from_value(1, "hello").body == {"messages": [{"role": "user", "content": "hello"}]}
    with pytest.raises(LineError, match="there is no field 'text'"):
        plain.from_json(1, b'{"prompt": "x"}')
    with pytest.raises(LineError, match="text must be a string or a list of token ids, got None"):
        plain.from_value(1, None)


@pytest.mark.parametrize(
    ("data", "kind"),
    [(json.dumps(GOOD).encode(), "openai"), (b'{"prompt": "x"}', "prompts"), (b"hello", "text"), (b"[1]", "text")],
)
def test_the_first_line_says_what_a_file_holds(data, kind):
    assert looks_like(data) == kind
