"""`orca-jax chat` over the fake engine: turns, commands, and what ends them."""

import io

import pytest

from orca_jax.cli.main import main


@pytest.fixture
def converse(builds, monkeypatch, capsys):
    """Runs a conversation of the given lines; returns status, output and errors."""

    def run(*lines: str, flags: tuple[str, ...] = ()) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
        status = main(["chat", "--max-model-len", "256", "--max-tokens", "4", "--sampling-seed", "3", *flags])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_every_turn_is_answered(converse):
    status, out, err = converse("hello", "and you?")
    assert status == 0 and err == ""
    first, second = out.splitlines()[:2]
    assert first and second and first != second


def test_an_answer_depends_on_the_turns_before_it(converse):
    _, out, _ = converse("hello", "/reset", "hello", "hello")
    first, again, third = out.split("\n")[:3]
    assert first == again != third


def test_a_system_message_heads_the_conversation(converse):
    assert converse("hello")[1] != converse("hello", flags=("--system", "be brief"))[1]


def test_quit_and_unknown_commands(converse):
    status, out, err = converse("/what", "/quit", "hello")
    assert status == 0 and out == ""
    assert err == "/what is no command: /reset forgets the conversation, /quit ends it\n"


def test_a_conversation_that_grows_too_long_can_be_reset(converse):
    status, out, err = converse("hello", "x " * 200, "/reset", "hello")
    assert status == 0
    assert "maximum context length is 256" in err and "(/reset begins anew)" in err and err.count("\n") == 1
    assert out.splitlines()[0] == out.splitlines()[-1]


def test_a_first_turn_that_is_too_long_is_an_error(converse):
    status, _, err = converse("x " * 400)
    assert status == 2 and "maximum context length" in err


def test_a_template_from_a_file(converse, tmp_path):
    (tmp_path / "chat.jinja").write_text("{{ messages[-1]['content'] }}")
    status, out, _ = converse("hello", "hello", flags=("--chat-template", str(tmp_path / "chat.jinja")))
    assert status == 0 and out.splitlines()[0] == out.splitlines()[1]
    status, _, err = converse("hello", flags=("--chat-template", str(tmp_path / "absent")))
    assert status == 2 and "cannot read" in err


def test_more_than_one_answer_is_refused(converse):
    status, _, err = converse("hello", flags=("--n", "2"))
    assert status == 2 and "n = 2" in err


def test_the_end_of_the_input_ends_a_terminal_s_conversation(builds, on_terminal, monkeypatch, capsys):
    answers = iter(["hello"])

    def ask(prompt: str) -> str:
        for answer in answers:
            return answer
        raise EOFError

    on_terminal()
    monkeypatch.setattr("builtins.input", ask)
    assert main(["chat", "--max-tokens", "4"]) == 0
    assert "/quit ends it" in capsys.readouterr().err


def test_the_timeline_shows_the_turns(converse):
    _, out, _ = converse("hello", "again", flags=("--timeline",))
    assert "initiation" in out  # one lane for each turn
    assert " 0 0 " in out and " 1 1 " in out
