"""`orca-jax batch` over the fake engine: what is asked on the command line, and every way of ending."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orca_jax.cli.main import main

ROOT = Path(__file__).parents[2]
FAKE_COMMAND = """
import sys
from pathlib import Path
from orca_jax.offline import building
from orca_jax.cli.main import main
from orca_jax.testing.fake_engine import build_fake_engine
building.build = lambda config, observers, shown: build_fake_engine(Path(sys.argv[1]), config, observers)
sys.exit(main(sys.argv[2:]))
"""


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def ask(custom_id, **body):
    body = {"prompt": "abc", "max_tokens": 3, **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body})


@pytest.fixture
def files(tmp_path):
    """Writes the input; returns it, the output and the arguments that name them."""

    def files(*lines, name="in.jsonl", out="out.jsonl"):
        source, output = tmp_path / name, tmp_path / out
        source.write_text("\n".join(lines) + "\n")
        return source, output, ["batch", "-i", str(source), "-o", str(output)]

    return files


def test_a_file_is_answered_and_a_second_run_has_nothing_to_do(builds, files, capsys):
    _, output, argv = files(ask("a"), ask("b"))
    assert main(argv) == 0
    assert "2 lines answered" in capsys.readouterr().err
    assert [record["custom_id"] for record in records(output)] == ["a", "b"]
    before = output.stat()
    assert main(argv) == 0
    assert "an earlier run has finished this" in capsys.readouterr().err
    assert output.stat().st_mtime_ns == before.st_mtime_ns and len(builds) == 1


def test_bad_lines_are_status_1_now_and_later(builds, files, capsys, tmp_path):
    _, output, argv = files(ask("a"), "{", ask("a"))
    argv += ["--errors", str(tmp_path / "bad.jsonl")]
    assert main(argv) == main(argv) == 1
    assert "1 lines answered, 2 failed (see " in capsys.readouterr().err
    assert [record["error"]["line"] for record in records(tmp_path / "bad.jsonl")] == [2, 3]
    assert len(records(output)) == 1


def test_prompts_take_their_defaults_from_the_flags(builds, files):
    _, output, argv = files("one", "two", name="in.txt")
    assert main([*argv, "--max-tokens", "5", "--logprobs", "1", "--logit-bias", "9=-3"]) == 0
    bodies = [record["response"]["body"] for record in records(output)]
    assert [body["usage"]["completion_tokens"] for body in bodies] == [5, 5]
    assert len(bodies[0]["choices"][0]["logprobs"]["tokens"]) == 5


def test_prompts_as_chats(builds, files):
    _, output, argv = files(json.dumps({"text": "hello", "max_tokens": 2}))
    assert main([*argv, "--chat", "--prompt-field", "text", "--logprobs", "1"]) == 0
    (record,) = records(output)
    assert record["response"]["body"]["object"] == "chat.completion"
    assert len(record["response"]["body"]["choices"][0]["logprobs"]["content"]) == 2


def test_shards_and_a_seeded_order_cover_every_line_once(builds, files, tmp_path):
    source, _, _ = files(*[ask(f"id{n}") for n in range(11)])
    found = []
    for shard in range(3):
        out = tmp_path / f"out{shard}.jsonl"
        argv = ["batch", "-i", str(source), "-o", str(out), "--shard", f"{shard}/3", "--seed-order", "4"]
        assert main([*argv, "--order", "completed", "--threads", "1", "--max-inflight", "2"]) == 0
        found += [record["custom_id"] for record in records(out)]
    assert sorted(found) == sorted(f"id{n}" for n in range(11)) and found != sorted(found)


def test_another_model_is_a_404_unless_any_is_taken(builds, files):
    _, output, argv = files(ask("a", model="gpt-4o-mini"))
    assert main(argv) == 1
    (error,) = records(output.with_name("out.errors.jsonl"))
    assert error["response"]["status_code"] == 404
    assert main([*argv, "--any-model", "--restart"]) == 0
    assert records(output)[0]["response"]["body"]["model"] == "fake"
    assert not output.with_name("out.errors.jsonl").exists()


def test_a_template_in_a_line_is_code_that_has_to_be_trusted(builds, files):
    body = {"messages": [{"role": "user", "content": "hi"}], "chat_template": "{{ 'def' }}", "max_tokens": 2}
    asked = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    _, output, argv = files(json.dumps(asked))
    assert main(argv) == 1
    (error,) = records(output.with_name("out.errors.jsonl"))
    assert error["error"]["param"] == "chat_template"
    assert main([*argv, "--trust-request-chat-template", "--restart"]) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seed", "1"], "was made with seed = 0, but now it is 1"),
        (["--shard", "0/2"], "was made with shard = "),
        (["--max-model-len", "32"], "was made with max_model_len = None, but now it is 32"),
        (["--format", "prompts", "--max-tokens", "3"], "was made with format = None, but now it is 'prompts'"),
    ],
)
def test_what_changes_answers_is_refused_by_name(builds, files, capsys, flags, message):
    _, output, argv = files(ask("a"))
    assert main(argv) == 0
    before = output.read_bytes()
    assert main([*argv, *flags]) == 2
    err = capsys.readouterr().err
    assert message in err and "--restart" in err and output.read_bytes() == before
    assert main([*argv, "--max-num-seqs", "2", "--order", "completed"]) == 0  # it only changes the speed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-tokens", "3"], "--max-tokens is for prompts without an envelope"),
        (["--chat"], "--chat is for prompts without an envelope"),
        (["--temperature", "9", "--format", "text"], "temperature must be in [0, 2]"),
        (["--shard", "3/3"], "'3/3' is not of the form I/N"),
        (["--shard", "x"], "'x' is not of the form I/N"),
        (["--threads", "0"], "--threads must be 1 to 256, got 0"),
        (["--max-inflight", "0"], "--max-inflight must be"),
        (["--format", "csv"], "invalid choice: 'csv'"),
        (["--errors", "/nowhere/e.jsonl"], "there is no folder /nowhere"),
        (["-o", "/nowhere/o.jsonl"], "there is no folder /nowhere"),
        (["-i", "/nowhere/i.jsonl"], "cannot read /nowhere/i.jsonl"),
    ],
)
def test_mistakes_are_one_line_and_status_2_before_anything_is_built(builds, files, capsys, flags, message):
    source, _, argv = files(ask("a"))
    assert main([*argv, *flags]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert builds == [] and {path.name for path in source.parent.iterdir()} == {"in.jsonl"}


def test_the_output_is_not_the_input(builds, files, capsys):
    source, _, _ = files(ask("a"))
    before = source.read_bytes()
    assert main(["batch", "-i", str(source), "-o", str(source)]) == 2
    assert "is the input" in capsys.readouterr().err and source.read_bytes() == before


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_run_which_then_goes_on(files, tokenizer_folder, number, status):
    _, output, argv = files(*[ask(f"id{n}", max_tokens=40) for n in range(3000)])
    process = subprocess.Popen(
        [sys.executable, "-c", FAKE_COMMAND, str(tokenizer_folder), *argv], cwd=ROOT, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    partial = output.with_name("out.jsonl.partial")
    deadline = time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert "of 3000 lines; the same command goes on from there" in err and err.count("\n") == 1
    assert not output.exists() and 0 < len(records(partial)) < 3000


def test_a_stopped_run_goes_on(builds, files, monkeypatch, capsys):
    from orca_jax.batch.runner import Runner

    _, output, argv = files(*[ask(f"id{n}", temperature=1) for n in range(40)])
    original = Runner._absorb

    def stop(self, events):
        original(self, events)
        self.stop()

    monkeypatch.setattr(Runner, "_absorb", stop)
    statuses = []
    while not output.exists():
        statuses.append(main(argv))
    assert set(statuses[:-1]) == {130} and statuses[-1] == 0 and len(statuses) > 2
    assert [record["custom_id"] for record in records(output)] == [f"id{n}" for n in range(40)]
