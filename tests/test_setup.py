"""What newcomers meet first: which Python is chosen, when an install is due, what the lock file promises."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


def shell(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` with the scripts' shared functions at hand."""
    code = f'set -euo pipefail\n. "{ROOT}/scripts/_venv.sh"\n{code}'
    return subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False, env=environment)


def find_newest(tmp_path: Path) -> subprocess.CompletedProcess[str]:
    return shell("newest_python", PATH=f"{tmp_path}:/usr/bin:/bin", HOME=str(tmp_path))


BROKEN = "echo 'the command exists in these Python versions' >&2; exit 127"  # what a pyenv shim does
WORKING = 'case "$2" in *sys.executable*) echo "$0";; esac'


def test_the_newest_python_that_really_runs_is_chosen(tmp_path: Path):
    for name in ("python3.13", "python3", "python"):
        executable(tmp_path / name, BROKEN)
    for name in ("python3.11", "python3.12"):
        executable(tmp_path / name, WORKING)
    assert find_newest(tmp_path).stdout.strip() == str(tmp_path / "python3.12")

    inner = tmp_path / ".pyenv/versions/3.13.0/bin/python3"
    executable(inner, WORKING)
    assert find_newest(tmp_path).stdout.strip() == str(inner)


def test_no_python_is_one_clear_line(tmp_path: Path):
    for name in ("python3.13", "python3.12", "python3.11", "python3", "python"):
        executable(tmp_path / name, BROKEN)
    found = find_newest(tmp_path)
    assert found.returncode != 0
    assert found.stderr.strip().count("\n") == 0 and "3.13 3.12 3.11" in found.stderr


@pytest.fixture
def installs(tmp_path: Path):
    """`run(extra)` ensures the environment of a pretended checkout and returns what pip was asked for."""
    (tmp_path / "requirements.lock").write_text("jax==1\n", encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text("", encoding="utf-8")
    log = tmp_path / "log"
    install = f'echo "$*" >>"{log}"; [ ! -e "{tmp_path}/offline" ]'
    executable(
        tmp_path / ".venv/bin/python",
        f'case "$*" in "-m pip install"*) {install};; *) exec "{sys.executable}" "$@";; esac',
    )

    def run(extra: str) -> str | None:
        log.unlink(missing_ok=True)
        code = f'ROOT="{tmp_path}"; ensure_venv "$ROOT/.venv" {extra}'
        done = shell(code, PATH="/usr/bin:/bin", HOME=str(tmp_path))
        if (tmp_path / "offline").exists():
            assert done.returncode != 0
            return None
        assert done.returncode == 0, done.stderr
        return log.read_text(encoding="utf-8").split()[-1] if log.exists() else None

    return run


def test_an_install_happens_only_when_it_is_due(tmp_path: Path, installs):
    assert installs("demo") == "."
    assert installs("demo") is None
    assert installs("dev") == ".[dev]"
    assert installs("dev") is None
    assert installs("demo") is None  # dev has all that demo needs
    (tmp_path / "requirements.lock").write_text("jax==2\n", encoding="utf-8")
    assert installs("demo") == ".[dev]"  # and is not lost when the pins change
    (tmp_path / "pyproject.toml").write_text("[project]\n", encoding="utf-8")
    assert installs("dev") == ".[dev]"
    assert installs("dev") is None


def test_an_install_that_failed_is_tried_again(tmp_path: Path, installs):
    (tmp_path / "offline").touch()
    assert installs("demo") is None
    (tmp_path / "offline").unlink()
    assert installs("demo") == "."


def test_the_lock_pins_every_dependency_and_names_no_index():
    pinned = {canonical(line.partition("==")[0]) for line in LOCK.splitlines() if line[:1].isalnum()}
    wanted = PROJECT["dependencies"] + [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    assert {canonical(Requirement(line).name) for line in wanted} - pinned == {canonical(PROJECT["name"])}
    assert all("==" in line for line in LOCK.splitlines() if line and not line.startswith("#"))
    assert not re.search(r"https?:|file:|--index|--find-links", LOCK)


def test_each_python_gets_its_jax():
    pins = re.findall(r"^jax==(\S+) ; python_full_version ([<>=]+) '3\.12'$", LOCK, flags=re.MULTILINE)
    by_python = {condition: version for version, condition in pins}
    assert by_python["<"] == "0.10.2"
    assert by_python[">="].startswith("0.12.")


def test_little_is_needed_at_run_time():
    """Seven libraries for the core (test_imports.py proves that they are enough), two more for the doors."""
    names = {canonical(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert names == {"jax", "flax", "jaxtyping", "numpy", "safetensors", "tokenizers", "jinja2"} | {"tqdm", "pillow"}


SCRIPTS = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file() and path.suffix != ".ipynb")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_and_can_be_run(script: Path):
    first, _, rest = script.read_text(encoding="utf-8").partition("\n")
    assert first.startswith("#!") == (script.name != "_venv.sh") == bool(script.stat().st_mode & 0o111)
    if "python" in first:
        compile(rest, script.name, "exec")
    else:
        subprocess.run(["bash", "-n", str(script)], check=True)
