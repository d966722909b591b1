"""The command as a whole: every way of ending is one line and a status."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orca_jax.cli.main import COMMANDS, main
from orca_jax.core.config import EngineConfig
from orca_jax.core.errors import CheckpointError, EngineError
from orca_jax.engine.build import log_choice, plan_engine
from orca_jax.offline.summary import in_bytes
from orca_jax.testing.fake_engine import FakeBuilt
from pallas_kernels.ragged_paged_attention import implementation
from pallas_kernels.ragged_paged_attention.target import Target

ROOT = Path(__file__).parents[2]


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*args: object) -> FakeBuilt:
        raise error

    monkeypatch.setattr("orca_jax.offline.llm._build", fail)


def run_process(code: str, *argv: str, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *argv], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, **options,
    )  # fmt: skip


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command, capsys):
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: orca-jax {command} [options]") and "--model" in out and "--max-num-seqs" in out


def test_help_and_version(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("orca-jax 0.")


@pytest.mark.parametrize(
    ("argv", "message"), [([], "COMMAND"), (["generat"], "invalid choice: 'generat'"), (["info", "x"], "unrecognized")]
)
def test_a_wrong_command_line_is_one_line(argv, message, capsys):
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("orca-jax: error: ") and message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (CheckpointError("config.json is\nmissing"), 2, "orca-jax: error: config.json is missing\n"),
        (EngineError("the device is gone"), 1, "orca-jax: error: the device is gone\n"),
        (KeyError("pages"), 1, "orca-jax: error: unexpected KeyError: 'pages' (--debug shows where)\n"),
        (KeyboardInterrupt(), 130, "orca-jax: interrupted\n"),
    ],
)
def test_ways_of_ending(monkeypatch, capsys, error, status, message):
    fail_with(monkeypatch, error)
    assert main(["generate", "abc"]) == status
    assert capsys.readouterr().err == message


def test_debug_shows_the_traceback(monkeypatch, capsys):
    fail_with(monkeypatch, KeyError("pages"))
    assert main(["generate", "abc", "--debug"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err and err.endswith("orca-jax: error: unexpected KeyError: 'pages'\n")


def test_a_request_that_the_engine_failed_is_status_1(builds, monkeypatch, capsys):
    def fail(self, plan, masks=None) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("orca_jax.testing.fake_executor.FakeExecutor.launch", fail)
    assert main(["generate", "abc"]) == 1
    err = capsys.readouterr().err
    assert "out of memory" in err and err.count("\n") == 1


def test_errors_of_the_real_command_have_no_traceback(tmp_path):
    process = run_process("import sys; from orca_jax.cli.main import main; sys.exit(main())", "generate", "abc",
                          "--model", str(tmp_path / "absent"))  # fmt: skip
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2 and out == ""
    assert err.startswith("orca-jax: error: ") and str(tmp_path / "absent") in err and err.count("\n") == 1


FAKE_COMMAND = """
import sys
from pathlib import Path
import orca_jax.offline.llm as llm
from orca_jax.cli.main import main
from orca_jax.testing.fake_engine import build_fake_engine
llm._build = lambda config, observers, shown: build_fake_engine(Path(sys.argv[1]), config, observers)
sys.exit(main(sys.argv[2:]))
"""
ENDLESS = ("generate", "abc", "--max-model-len", "1000000", "--max-tokens", "900000", "--ignore-eos")


def test_ctrl_c_ends_the_real_command_with_one_line(tokenizer_folder):
    with run_process(FAKE_COMMAND, str(tokenizer_folder), *ENDLESS, "--max-num-seqs", "1") as process:
        assert process.stdout is not None
        assert process.stdout.read(4), "it never began"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "orca-jax: interrupted\n"


def test_a_reader_that_goes_away_is_no_error(tokenizer_folder):
    with run_process(FAKE_COMMAND, str(tokenizer_folder), *ENDLESS, "--max-num-seqs", "1") as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(4), "it never began"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 141


@pytest.mark.parametrize("command", ["generate", "batch"])
def test_help_needs_no_jax(command):
    code = """
import sys
from orca_jax.cli.main import main
main([sys.argv[1], "--help"])
loaded = {"jax", "flax", "numpy", "tokenizers", "tqdm", "PIL", "grain", "pydantic"} & set(sys.modules)
sys.exit(f"loaded {loaded}" if loaded else 0)
"""
    process = run_process(code, command)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err


def test_info_describes_the_machine(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for word in ("orca-jax", "jaxlib", "attention", "cpu", "GiB", "K/V pool", "compiled shapes", "demo"):
        assert word in out


def test_info_and_the_log_say_why_a_card_s_own_kernels_do_not_run(capsys, caplog, monkeypatch):
    monkeypatch.setattr(implementation, "current_target", lambda: Target("gpu", "NVIDIA B200"))
    assert main(["info"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("attention ")]
    assert line.split(maxsplit=1)[1].startswith("xla (no mosaic_gpu on NVIDIA B200: its kernels use wgmma, which only")
    assert main(["info", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["machine"]["attention"] == told["engine"]["attention"] == "xla"
    assert told["machine"]["attention_note"] == told["engine"]["attention_note"] in line
    with caplog.at_level("INFO"):
        log_choice(plan_engine(EngineConfig()))
    assert f"attention: xla ({told['engine']['attention_note']}); K/V pool" in caplog.text


def test_info_refuses_an_attention_that_cannot_run_here(capsys):
    assert main(["info", "--attention-backend", "magic"]) == 2
    assert "attention_backend = 'magic'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**31, "2.0 GiB"), (3 * 2**40, "3.0 TiB")]
)
def test_bytes_are_readable(count, text):
    assert in_bytes(count) == text


def test_every_setting_is_a_flag(capsys):
    assert main(["generate", "--help"]) == 0
    out = capsys.readouterr().out
    for name in EngineConfig.__dataclass_fields__:
        assert "--" + name.replace("_", "-") in out


def test_a_flag_of_vllm_s_is_refused_by_its_name(capsys):
    assert main(["generate", "abc", "--tensor-parallel-size", "2"]) == 2
    assert "--tensor-parallel-size is not supported by this engine" in capsys.readouterr().err


def test_a_picture_is_a_png(builds, capsys):
    assert main(["generate", "abc", "--timeline-png", "x.jpg"]) == 2
    assert "x.jpg is no name of a PNG" in capsys.readouterr().err
