"""`orca-jax generate` over the fake engine: where prompts come from, what is printed, what is refused and how."""

import io
import json

import pytest

from orca_jax.cli.main import main
from orca_jax.core.sampling_params import SamplingParams


def expected_text(built, prompt: str, max_tokens: int, arrival: int = 0, seed: int = 7) -> str:
    request = built.door.make(
        prompt, SamplingParams(max_tokens=max_tokens, seed=seed), request_id="x", arrival=arrival, arrival_time=0.0
    )
    return built.tokenizer.decode(built.model.expected(request)[0])


def run(*argv: str) -> int:
    return main(["generate", "--sampling-seed", "7", *argv])


def test_one_prompt_streams_its_answer(builds, capsys):
    assert run("for i in", "--max-tokens", "9") == 0
    out, err = capsys.readouterr()
    assert out == expected_text(builds[0], "for i in", 9) + "\n"
    assert err == ""


def test_several_prompts_are_printed_as_they_end(builds, capsys):
    assert run("abc", "def f(x):", "--max-tokens", "5") == 0
    out = capsys.readouterr().out
    for number, prompt in enumerate(("abc", "def f(x):"), 1):
        assert f"[{number}/2] {prompt} (5 tokens, length)\n{expected_text(builds[0], prompt, 5)}\n" in out


def test_several_answers_to_one_prompt(builds, capsys):
    assert run("abc", "--n", "2", "--max-tokens", "4") == 0
    out = capsys.readouterr().out
    assert "[1/1 answer 0] abc" in out and "[1/1 answer 1] abc" in out


def test_json_has_everything_that_was_asked_for(builds, capsys):
    assert run("abc", "xyz", "--max-tokens", "3", "--logprobs", "2", "--json") == 0
    items = sorted((json.loads(line) for line in capsys.readouterr().out.splitlines()), key=lambda item: item["index"])
    assert [item["prompt"] for item in items] == ["abc", "xyz"]
    for item in items:
        (answer,) = item["outputs"]
        assert answer["text"] == expected_text(builds[0], item["prompt"], 3)
        assert len(answer["token_ids"]) == len(answer["logprobs"]) == 3
        assert answer["finish_reason"] == "length" and answer["stop_reason"] is None and item["seed"] == 7


def test_prompts_from_standard_input(builds, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("def f(x):\n    return"))
    assert run("--max-tokens", "4") == 0
    assert capsys.readouterr().out == expected_text(builds[0], "def f(x):\n    return", 4) + "\n"


def test_prompts_from_the_lines_of_a_file(builds, capsys, tmp_path):
    (tmp_path / "prompts.txt").write_text("\ufeffabc\r\n\r\nxyz\n", encoding="utf-8")
    assert run("--file", str(tmp_path / "prompts.txt"), "--max-tokens", "3") == 0
    out = capsys.readouterr().out
    assert "[1/2] abc" in out and "[2/2] xyz" in out


def test_json_lines_may_bring_their_own_parameters(builds, capsys, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "abc", "max_tokens": 2}\n\n{"prompt_token_ids": [5, 6]}\n')
    assert run("--file", str(path), "--json", "--max-tokens", "4") == 0
    items = sorted((json.loads(line) for line in capsys.readouterr().out.splitlines()), key=lambda item: item["index"])
    assert [len(item["outputs"][0]["token_ids"]) for item in items] == [2, 4]
    assert items[1]["prompt"] is None and items[1]["prompt_token_ids"] == [5, 6]


def test_without_max_tokens_an_answer_has_the_default_or_what_fits(builds, capsys):
    assert main(["generate", "abc", "--json", "--default-max-tokens", "11", "--ignore-eos"]) == 0
    assert main(["generate", "abc", "--json", "--ignore-eos"]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert len(first["outputs"][0]["token_ids"]) == 11
    assert len(second["outputs"][0]["token_ids"]) == 64 - len(second["prompt_token_ids"])


def test_settings_reach_the_engine_and_flags_win_over_the_file(builds, capsys, tmp_path):
    path = tmp_path / "engine.toml"
    path.write_text("max_num_seqs = 2\nseed = 5\n")
    flags = [
        "--seed",
        "6",
        "--no-async-scheduling",
        "--kv-cache-memory-bytes",
        "2MiB",
        "--compilation-cache-dir",
        "none",
    ]
    assert run("abc", "--max-tokens", "2", "--config", str(path), *flags) == 0
    config = builds[0].config
    assert (config.max_num_seqs, config.seed, config.lookahead) == (2, 6, 0)
    assert config.kv_cache_memory_bytes == 2**21 and config.compilation_cache_dir is None


def test_a_flag_of_texts_or_tokens_takes_one_and_leaves_the_prompt_alone(builds, capsys):
    flags = ["--bad-words", "x", "--bad-words", "y", "--stop-token-ids", "7", "--allowed-token-ids", "5"]
    assert run(*flags, "abc", "--max-tokens", "3", "--json") == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == "abc"


def test_the_form_of_the_output_is_not_the_file_s(builds, capsys, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "abc", "output_kind": 2}\n')
    assert run("--file", str(path)) == 2
    assert "output_kind" in capsys.readouterr().err and not builds


def test_the_timeline_follows_the_answers(builds, capsys, tmp_path):
    picture = tmp_path / "new" / "timeline.png"
    assert run("abc", "xyz", "--max-tokens", "5", "--timeline", "--timeline-png", str(picture)) == 0
    out, err = capsys.readouterr()
    assert " 0 abc" in out and " 1 xyz" in out and "█────" in out and "of 4 rows filled" in out
    assert picture.read_bytes().startswith(b"\x89PNG") and str(picture) in err


def test_beside_json_the_timeline_goes_to_standard_error(builds, capsys):
    assert run("abc", "--max-tokens", "5", "--timeline", "--json") == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1 and "initiation" in err


def test_a_terminal_sees_the_prompt_and_no_control_characters(builds, capsys, on_terminal, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    on_terminal()
    assert run("a\x1b[2Jb", "--max-tokens", "5") == 0
    out, err = capsys.readouterr()
    assert out.startswith("a\\x1b[2Jb") and "\x1b" not in out
    assert "5 tokens in" in err


BAD = [
    (["abc", "--temperature", "hot"], "argument --temperature: 'hot' is not a number"),
    (["abc", "--temperature", "3"], "temperature must be in [0, 2], got 3."),
    (["abc", "--max-tokens", "0"], "max_tokens must be at least 1"),
    (["abc", "--max-tokens", "64"], "maximum context length is 64 tokens"),
    (["abc", "--n", "2", "--temperature", "0"], "n must be 1 when using greedy sampling"),
    (["abc", "--logit-bias", "5"], "'5' is not of the form ID=BIAS"),
    (["abc", "--max-num-seqs", "0"], "max_num_seqs = 0, but it must be at least 1"),
    (["abc", "--kv-cache-memory-bytes", "2 bananas"], "'2 bananas' is not a size"),
    (["abc", "--no-async-scheduling", "--lookahead", "1"], "async_scheduling = False contradicts lookahead = 1"),
    (["abc", "--bad-words", ""], "bad_words"),
    (["abc", "--temprature", "1"], "unrecognized arguments: --temprature"),
    (["abc", "--config", "absent.toml"], "cannot read config file absent.toml"),
    (["--file", "absent.txt"], "cannot read absent.txt: No such file or directory"),
    ([""], "the prompt is empty"),
]


@pytest.mark.parametrize(("argv", "message"), BAD)
def test_mistakes_are_one_line_and_status_2(builds, capsys, argv, message):
    assert main(["generate", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("orca-jax: error: ") and message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no prompt"),
        ('{"prompt": "abc"}\n{"prompt": ', "prompts.jsonl:2: not valid JSON"),
        ('{"prompt": "abc"}\n[1]', "prompts.jsonl:2: a JSON object is needed"),
        ('{"max_tokens": 5}', "prompts.jsonl:1: one of prompt and prompt_token_ids is needed"),
        ('{"prompt": "abc", "temprature": 1}', "did you mean 'temperature'?"),
        ('{"prompt": "abc"}\n{"prompt": "x", "top_p": 2}', "prompts.jsonl:2: top_p must be in (0, 1]"),
        ('{"prompt": 5}', "prompt"),
    ],
)
def test_mistakes_in_a_file_name_the_line(builds, capsys, tmp_path, content, message):
    path = tmp_path / "prompts.jsonl"
    path.write_text(content)
    assert main(["generate", "--file", str(path)]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_file_that_is_not_text(builds, capsys, tmp_path):
    (tmp_path / "binary").write_bytes(b"abc\xff")
    assert main(["generate", "--file", str(tmp_path / "binary")]) == 2
    assert "is not UTF-8 text (byte 3)" in capsys.readouterr().err
