"""Where `generate` finds its prompts: arguments, a file of lines or of JSON objects, or standard input."""

import argparse
import json
import sys
from dataclasses import dataclass, field
from typing import Any

from orca_jax.cli.files import read_text
from orca_jax.cli.terminal import UsageError, on_terminal, say


@dataclass(frozen=True, slots=True)
class Entry:
    """A prompt as `LLM.generate` takes it, the sampling parameters that its line adds, and where it came from."""

    prompt: Any
    params: dict[str, Any] = field(default_factory=dict)
    source: str = ""


def add_prompt_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "prompts", nargs="*", metavar="PROMPT", help="prompts; without any, one is read from standard input"
    )
    parser.add_argument(
        "--file", metavar="FILE",
        help="a prompt on each line, or JSON Lines like {\"prompt\": \"def f(\", \"max_tokens\": 20}; '-' is standard input",
    )  # fmt: skip


def read_prompts(args: argparse.Namespace) -> list[Entry]:
    """The prompts that the command line names, at least one. Raises UsageError naming the line at fault."""
    entries = [Entry(text) for text in args.prompts]
    if args.file is not None:
        entries += from_lines(read_text(args.file), args.file)
    elif not entries:
        if on_terminal(sys.stdin):
            say("reading one prompt from the keyboard; end it with Ctrl-D")
        entries = [Entry(read_text("-").removesuffix("\n"), source="standard input")]
    if not entries:
        raise UsageError(f"{args.file} holds no prompt")
    for entry in entries:
        if entry.prompt == "":
            raise UsageError(f"the prompt{' from ' + entry.source if entry.source else ''} is empty")
    return entries


def from_lines(text: str, name: str) -> list[Entry]:
    """A prompt from each line that is not empty; lines of a file that begins with `{` are JSON objects."""
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines or not lines[0][1].lstrip().startswith("{"):
        return [Entry(line, source=f"{name}:{number}") for number, line in lines]
    return [_from_json(line, f"{name}:{number}") for number, line in lines]


def _from_json(line: str, source: str) -> Entry:
    try:
        item = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UsageError(f"{source}: not valid JSON: {error}") from error
    if not isinstance(item, dict):
        raise UsageError(f'{source}: a JSON object is needed, such as {{"prompt": "def f("}}')
    if ("prompt" in item) == ("prompt_token_ids" in item):
        raise UsageError(f"{source}: one of prompt and prompt_token_ids is needed")
    key = "prompt" if "prompt" in item else "prompt_token_ids"
    if not isinstance(item[key], str if key == "prompt" else list):
        raise UsageError(f"{source}: {key} must be a {'string' if key == 'prompt' else 'list of token ids'}")
    params = {name: value for name, value in item.items() if name != key}
    return Entry(item[key] if key == "prompt" else {key: item[key]}, params, source)
