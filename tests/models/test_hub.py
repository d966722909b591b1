"""Hub ids, without a network: what is asked of huggingface_hub, and what becomes of its errors."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from orca_jax.core.errors import CheckpointError, ConfigError
from orca_jax.core.resources import demo_model_dir
from orca_jax.models.hub import fetch, redact
from orca_jax.models.source import find_model, find_tokenizer

errors = pytest.importorskip("huggingface_hub.errors", reason="huggingface_hub is not installed")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def refuse(error: type[Exception], text: str = "no") -> Exception:
    """The error as the package would raise it: most of them want the response that they are about."""
    made = error.__new__(error)
    made.args = (text,)
    return made


@pytest.fixture
def download(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], list[dict[str, object]]]:
    """Lets `snapshot_download` return or raise something, and records what it is asked for."""

    def prepare(outcome: object) -> list[dict[str, object]]:
        asked: list[dict[str, object]] = []

        def snapshot_download(name: str, **how: object) -> object:
            asked.append({"name": name, **how})
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        fake = SimpleNamespace(snapshot_download=snapshot_download, errors=errors)
        monkeypatch.setitem(sys.modules, "huggingface_hub", fake)  # type: ignore[arg-type]
        return asked

    return prepare


def test_one_revision_serves_everything(download: Callable[[object], list[dict[str, object]]], tmp_path: Path):
    asked = download(str(tmp_path / COMMIT))
    source = find_model("org/name", revision="v2")
    assert (source.path, source.revision, source.name) == (tmp_path / COMMIT, COMMIT, "org/name")
    assert len(asked) == 1 and asked[0]["revision"] == "v2"
    patterns = asked[0]["allow_patterns"]
    assert isinstance(patterns, list) and "*.json" in patterns
    assert not any(pattern.endswith((".bin", ".py", "*")) and pattern != "tokenizer*" for pattern in patterns)


def test_weights_are_fetched_only_where_they_are_read(
    download: Callable[[object], list[dict[str, object]]], tmp_path: Path
):
    asked = download(str(tmp_path / COMMIT))
    find_model("org/name")
    find_model("org/name", load_format="dummy")
    assert find_tokenizer("org/name") == tmp_path / COMMIT
    fetched = [any("safetensors" in str(pattern) for pattern in call["allow_patterns"]) for call in asked]  # type: ignore[attr-defined]
    assert fetched == [True, False, False]


def test_a_tokenizer_of_another_repository_cannot_be_pinned(download: Callable[[object], list[dict[str, object]]]):
    asked = download("unused")
    with pytest.raises(ConfigError, match="revision = 'v2' pins the model, but not tokenizer = 'org/other'"):
        find_tokenizer("org/other", "v2")
    assert asked == []


@pytest.mark.parametrize("how", [{"model": None}, {"model": "demo"}, {"model": "gpt-13b", "load_format": "dummy"}])
def test_a_revision_of_what_is_not_fetched_is_refused(how: dict[str, str]):
    with pytest.raises(ConfigError, match=r"revision = 'v2' means nothing for .*, which is not fetched"):
        find_model(revision="v2", **how)


def test_names_of_ours_mean_ours_wherever_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("demo", "gpt-13b"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    ours = find_model(None)
    assert ours == find_model("demo") and ours.path == find_tokenizer("demo") == demo_model_dir()
    assert find_model("gpt-13b", load_format="dummy").is_preset
    assert find_model("./demo").path == Path("demo") == find_tokenizer("./demo")


def test_a_tokenizer_that_is_nowhere_is_refused_as_one(tmp_path: Path):
    assert find_tokenizer(str(tmp_path)) == tmp_path
    with pytest.raises(CheckpointError, match="tokenizer = 'nowhere' is neither a folder nor a Hub id"):
        find_tokenizer("nowhere")


CASES = [
    ("GatedRepoError", "org/name is gated: accept its licence on the Hub and log in"),
    ("RevisionNotFoundError", "org/name: the Hub has no such revision"),
    ("RepositoryNotFoundError", "org/name: the Hub has no such model, or it is private"),
    ("LocalEntryNotFoundError", "neither a local folder nor in the Hub's cache, and the Hub cannot be reached"),
    ("HfHubHTTPError", "org/name could not be fetched from the Hub: no"),
]


@pytest.mark.parametrize(("name", "message"), CASES)
def test_each_failure_is_one_clear_line(name: str, message: str, download: Callable[[object], object]):
    download(refuse(getattr(errors, name)))
    with pytest.raises(CheckpointError) as refusal:
        fetch("org/name", None)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_full_disk_is_named(download: Callable[[object], object]):
    download(OSError(28, "No space left on device"))
    with pytest.raises(CheckpointError, match=r"could not be fetched from the Hub: .*No space left on device"):
        fetch("org/name", None)


def test_tokens_never_reach_the_error(download: Callable[[object], object]):
    download(OSError("401 for url with hf_AbCdEfGhIjKl and\nAuthorization: Bearer secret.value"))
    with pytest.raises(CheckpointError) as refusal:
        fetch("org/name", "main")
    text = str(refusal.value)
    assert "hf_AbCd" not in text and "secret" not in text and "[token]" in text and "\n" not in text
    assert len(redact("x" * 10_000)) == 200


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"needs huggingface_hub \(pip install 'orca-jax\[hub\]'\)"):
        fetch("org/name", None)


@pytest.mark.parametrize("name", ["gpt2", "./models/mine", "/no/such/folder", "a/b/c", "../../etc/passwd", "org/", ""])
def test_what_cannot_be_a_hub_id_is_not_looked_up(name: str, download: Callable[[object], list[dict[str, object]]]):
    asked = download(RuntimeError("the Hub was asked"))
    with pytest.raises(CheckpointError, match="neither a folder nor a Hub id such as 'org/name'"):
        find_model(name)
    assert not asked
