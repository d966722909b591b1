"""Drivers in turn: any program that speaks the format takes part, and one that fails is reported, not hidden."""

import argparse
import sys
from pathlib import Path

import pytest

from orca_jax.bench import peers
from orca_jax.core.errors import ConfigError
from orca_jax.core.resources import configs_dir

DRIVER = """
import json, sys
from pathlib import Path
files = sys.argv[sys.argv.index("--workload") + 1:]
print("noise on standard output")
for file in files:
    data = json.loads(Path(file).read_text())
    tokens = sum(r["output_len"] for r in data["requests"])
    row = {"workload": data["name"], "out_tok_s": float(tokens), "max_seqs": sys.argv[sys.argv.index("--max-seqs") + 1]}
    print(json.dumps(row | ({"ttft_ms": 1.0, "tpot_ms": 2.0} if len(data["requests"]) == 1 else {})))
"""


def run(tmp_path: Path, commands: str, **settings: object) -> list[dict]:
    (tmp_path / "driver.py").write_text(DRIVER)
    path = tmp_path / "peers.toml"
    path.write_text(commands)
    parser = argparse.ArgumentParser()
    peers.add_arguments(parser)
    args = parser.parse_args(
        ["--commands", str(path), "--where", f"here={tmp_path}", "--workload", "w2_decode", "w3_single"]
    )
    for name, value in settings.items():
        setattr(args, name, value)
    return list(peers.rows(args))


def test_engines_alternate_and_every_run_is_labelled(tmp_path: Path):
    found = run(tmp_path, 'a = "{python} {here}/driver.py"\nb = "{python} {here}/driver.py"\n', rounds=2, max_seqs=5)
    assert [(row["round"], row["label"], row["workload"]) for row in found] == [
        (n, label, name) for n in (0, 1) for label in "ab" for name in ("w2_decode", "w3_single")
    ]
    assert {row["max_seqs"] for row in found} == {"5"}
    assert "| a | 8192.0 (8192.0-8192.0) | 1.0 (1.0-1.0) | 2.0 (2.0-2.0) |" in peers.table(found)


def test_a_failing_engine_shows_in_the_table(tmp_path: Path):
    found = run(tmp_path, "bad = \"{python} -c 'raise SystemExit(3)'\"\n", rounds=1)
    assert "- bad, round 0: exit status 3" in peers.table(found)


def test_a_place_that_is_not_given_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"needs a place called 'there' \(--where there=DIR\)"):
        run(tmp_path, 'a = "{there}/driver"\n')


def test_an_unknown_label_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="has no engine 'c', only a"):
        run(tmp_path, 'a = "{python} {here}/driver.py"\n', only=["c"])


def test_the_committed_commands_need_two_places_only():
    where = {"python": sys.executable, "root": "ROOT", "drivers": "DRIVERS"}
    commands = peers.load_commands(configs_dir() / "bench" / "peers.toml", where)
    assert {"orca-bf16", "orca-f32", "openvino-bf16"} <= set(commands)
    assert all(command[0] == sys.executable or command[0].startswith("ROOT") for command in commands.values())
