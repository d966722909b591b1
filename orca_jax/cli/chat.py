"""`orca-jax chat`: a conversation in the terminal."""

import argparse
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING

from orca_jax.cli.files import read_text
from orca_jax.cli.flags import add_engine_flags, add_sampling_flags, engine_settings, sampling_settings
from orca_jax.cli.generate import raise_failure
from orca_jax.cli.terminal import BOLD, DIM, on_terminal, say, styled, write
from orca_jax.cli.timeline import add_timeline_flags, recorder_for, show_wanted
from orca_jax.core.errors import RequestError
from orca_jax.core.outputs import RequestOutput
from orca_jax.core.sampling_params import SamplingParams

if TYPE_CHECKING:
    from orca_jax.offline.llm import LLM

HELP = "talk with a model"
USAGE = "[options]"
DESCRIPTION = """Talk with a model in the terminal, by default the one that ships with orca-jax.

Lines beginning with a slash are commands: /reset forgets the conversation, /quit ends it (as does Ctrl-D).
Ctrl-C stops an answer, and at the prompt the program."""
EPILOG = """examples:
  orca-jax chat --model ./Qwen3-0.6B --temperature 0.7
  orca-jax chat --system 'Answer in one sentence.'
"""
COMMANDS = "/reset forgets the conversation, /quit ends it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--system", metavar="TEXT", help="a system message at the head of the conversation")
    parser.add_argument("--chat-template", metavar="FILE", help="Jinja template to use instead of the checkpoint's own")
    add_timeline_flags(parser)
    add_sampling_flags(parser)
    add_engine_flags(parser)


def run(args: argparse.Namespace) -> int:
    params = SamplingParams(**{"max_tokens": None, **sampling_settings(args)})
    if params.n != 1:
        raise RequestError(f"n = {params.n}, but a conversation goes on with one answer (leave --n out)", "n")
    recorder = recorder_for(args)
    from orca_jax.offline.llm import LLM

    template = None if args.chat_template is None else read_text(args.chat_template)
    with LLM(**engine_settings(args), observers=[recorder] if recorder else []) as llm:
        _converse(llm, params, args.system, template)
        show_wanted(args, recorder, llm.info.max_num_seqs, sys.stdout)
    return 0


def _converse(llm: "LLM", params: SamplingParams, system: str | None, template: str | None) -> None:
    """Turn by turn until the person leaves."""
    opening = [] if system is None else [{"role": "system", "content": system}]
    messages = list(opening)
    if on_terminal(sys.stdin):
        say(styled(COMMANDS, DIM, sys.stderr))
    while (said := _ask()) is not None:
        if said == "/quit":
            return
        if said == "/reset":
            messages = list(opening)
        elif said == "/help":
            say(COMMANDS)
        elif said.startswith("/"):
            say(f"{said.split()[0]} is no command: {COMMANDS}")
        elif said:
            _turn(llm, params, messages, said, template)


def _turn(llm: "LLM", params: SamplingParams, messages: list[dict[str, str]], said: str, template: str | None) -> None:
    """One question and its answer, both added to `messages`; neither is if the conversation has grown too long."""
    messages.append({"role": "user", "content": said})
    try:
        stream = llm.stream_chat(messages, params, chat_template=template)
    except RequestError as error:
        messages.pop()
        if len(messages) < 2:  # it is not the length of the conversation, so going on would not help
            raise
        say(f"orca-jax: error: {error} (/reset begins anew)")
        return
    messages.append({"role": "assistant", "content": _answer(stream)})


def _answer(stream: Generator[RequestOutput, None, None]) -> str:
    """Print an answer as it comes; Ctrl-C stops it, and what has come of it counts."""
    answer = ""
    try:
        for output in stream:
            raise_failure(output)
            answer += output.outputs[0].text
            write(output.outputs[0].text)
    except KeyboardInterrupt:
        stream.close()
        say(styled(" (stopped)", DIM, sys.stderr))
    write("\n")
    return answer


def _ask() -> str | None:
    """What the person says, without surrounding blanks; None at the end of the input."""
    if not on_terminal(sys.stdin):
        line = sys.stdin.readline()
        return line.strip() if line else None
    try:
        return input(styled("> ", BOLD, sys.stdout)).strip()
    except EOFError:
        print()
        return None
