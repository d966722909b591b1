"""The notebook, executed from top to bottom in a kernel of its own, and what is stored in the file."""

import base64
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

import orca_jax

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "scripts" / "quickstart.ipynb"
KERNEL = "orca-test"
SILENT = ("import importlib\n", "# Where pip gets")  # the cells that print nothing where everything is installed
MACHINE_PATH = re.compile(r"/(?:root|tmp|work|home|opt|usr|var|Users|content)\b")


def stored() -> NotebookNode:
    return nbformat.read(FILE, as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def cell_with(notebook: NotebookNode, text: str) -> NotebookNode:
    (cell,) = (cell for cell in code_cells(notebook) if text in cell.source)
    return cell


def printed(cell: NotebookNode) -> str:
    return "".join(output.text for output in cell.outputs if output.get("name") == "stdout")


def displayed(cell: NotebookNode, kind: str) -> str:
    (data,) = (output.data[kind] for output in cell.outputs if kind in output.get("data", {}))
    return data


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> NotebookNode:
    """The notebook after a run with this interpreter and this checkout, whatever kernels this machine knows."""
    folder = tmp_path_factory.mktemp("notebook")
    spec = folder / "kernels" / KERNEL / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": KERNEL, "language": "python"}))
    kernel = os.environ | {
        "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "IPYTHONDIR": str(folder / "ipython"), "TMPDIR": str(folder),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),  # the batch file's engine finds what the first one compiled
        "PIP_NO_INDEX": "1",  # where a package is missing, the test fails and leaves the environment as it is
    }  # fmt: skip
    notebook = stored()
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder))
        patch.setenv("JUPYTER_CONFIG_DIR", str(folder / "config"))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "runtime"))
        client = NotebookClient(
            notebook, timeout=240, kernel_name=KERNEL, record_timing=False, coalesce_streams=True,
            resources={"metadata": {"path": str(FILE.parent)}},
        )  # fmt: skip
        client.execute(env=kernel)
    return notebook


def test_it_runs_from_top_to_bottom(executed):
    assert [cell.execution_count for cell in code_cells(executed)] == list(range(1, len(code_cells(executed)) + 1))
    assert not [output for cell in code_cells(executed) for output in cell.outputs if output.output_type == "error"]


def test_the_device_and_the_attention_are_named(executed):
    facts = printed(cell_with(executed, "llm = LLM("))
    assert re.search(r"^device +cpu:0 \(cpu\)$", facts, re.MULTILINE)
    assert re.search(r"^attention +xla$", facts, re.MULTILINE)
    assert f"orca_jax {orca_jax.__version__}," in facts


def test_answers_come(executed):
    assert printed(cell_with(executed, "llm.generate([")).count(" tokens, ended by ") == 3
    assert printed(cell_with(executed, "llm.stream_chat(")).startswith("def is_empty(self")


def test_the_timeline_is_a_picture(executed):
    cell = cell_with(executed, "TimelineRecorder()\nwaiting")
    assert base64.b64decode(displayed(cell, "image/png")).startswith(b"\x89PNG")
    assert "programs compiled after warm-up: 0" in printed(cell)


def test_the_form_is_kept(executed):
    task = printed(cell_with(executed, "StructuredOutputsParams(json"))
    assert re.fullmatch(r"\{'name': .*, 'done': (True|False), 'priority': [1-5]\}\n", task)


def test_every_token_has_its_colour(executed):
    html = displayed(cell_with(executed, "logprobs=3"), "text/html")
    assert html.count("<span ") == 24 and html.count("<tr>") == 5


def test_every_line_of_the_batch_is_answered(executed):
    lines = printed(cell_with(executed, 'main(["batch"')).splitlines()
    assert lines[0] == "exit status 0"
    assert [line.split(" ")[0] for line in lines[1:]] == ["a", "b", "c", "d"]


def test_the_file_holds_a_whole_run(executed):
    """As many outputs of the same kinds as a run gives, and none that a run in order would not number so."""
    kinds = [
        [[cell.execution_count, sorted({out.get("name", out.output_type) for out in cell.outputs} - {"stderr"})]
         for cell in code_cells(notebook)] for notebook in (stored(), executed)
    ]  # fmt: skip
    assert kinds[0] == kinds[1]
    silent = [cell.source.startswith(SILENT) for cell in code_cells(stored())]
    assert [not names for _, names in kinds[0]] == silent


def test_the_file_is_small_and_knows_no_machine():
    notebook, text = stored(), FILE.read_text(encoding="utf-8")
    nbformat.validate(notebook)
    picture = displayed(cell_with(notebook, "TimelineRecorder()\nwaiting"), "image/png")
    assert len(picture) < 300_000 and len(text) < 600_000
    without = text.replace(json.dumps(picture), "")  # its base64 may spell anything
    assert len(without) < len(text) - len(picture)
    assert MACHINE_PATH.findall(without) == []
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.fixture
def installs(monkeypatch):
    """What the first cells hand to pip on a machine without the package, in a folder; `cuda` is the driver's version."""

    def ask(folder: Path, *, repository: str = "", cuda: str = "", tpu: bool = False) -> list[str]:
        asked: list[list[str]] = []

        def run(argv: list[str], **_: object) -> subprocess.CompletedProcess[str]:
            if argv[0] != "nvidia-smi":
                asked.append(argv)
            return subprocess.CompletedProcess(argv, 0, f"| Driver Version: 580.1   CUDA Version: {cuda} |", "")

        monkeypatch.chdir(folder)
        monkeypatch.setattr(subprocess, "run", run)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        monkeypatch.setattr(shutil, "which", lambda name: name if cuda else None)
        monkeypatch.setattr(Path, "exists", lambda path: tpu and str(path) == "/dev/accel0")
        top, install = code_cells(stored())[:2]
        assert top.source.endswith('\nREPOSITORY = ""')
        exec(install.source, {"REPOSITORY": repository})
        (argv,) = asked
        assert argv[:5] == [sys.executable, "-m", "pip", "install", "--quiet"]
        return argv[5:]

    return ask


def test_a_checkout_is_installed_from_itself(installs):
    assert installs(FILE.parent) == ["--editable", f"{ROOT}[grammar,batch]"]


@pytest.mark.parametrize(
    ("machine", "build"),
    [({}, []), ({"cuda": "12.8"}, ["jax[cuda12]"]), ({"cuda": "13.0"}, ["jax[cuda13]"]), ({"tpu": True}, ["jax[tpu]"])],
    ids=["cpu", "cuda12", "cuda13", "tpu"],
)
def test_elsewhere_the_repository_is_installed_for_the_device(installs, tmp_path, machine, build):
    asked = installs(tmp_path, repository="https://example.org/orca_jax.git", **machine)
    assert asked == ["orca-jax[grammar,batch] @ git+https://example.org/orca_jax.git", *build]


def test_without_a_repository_it_says_what_to_do(installs, tmp_path):
    with pytest.raises(RuntimeError, match="set REPOSITORY above"):
        installs(tmp_path)
