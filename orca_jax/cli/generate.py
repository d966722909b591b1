"""`orca-jax generate`: continue prompts from the command line, a file or a pipe."""

import argparse
import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from orca_jax.cli.flags import add_engine_flags, add_sampling_flags, engine_settings, sampling_settings
from orca_jax.cli.prompts import Entry, add_prompt_arguments, read_prompts
from orca_jax.cli.terminal import BOLD, DIM, UsageError, on_terminal, say, styled, width, write
from orca_jax.cli.timeline import add_timeline_flags, recorder_for, show_wanted
from orca_jax.core.errors import EngineError, RequestError
from orca_jax.core.outputs import CompletionOutput, RequestOutput
from orca_jax.core.sampling_params import RequestOutputKind, SamplingParams
from orca_jax.observe.labels import one_line

if TYPE_CHECKING:
    from orca_jax.offline.llm import LLM

HELP = "continue prompts"
USAGE = "[options] [PROMPT ...]"
DESCRIPTION = """Continue prompts with a model, by default the one that ships with orca-jax.

The answer to one prompt streams; of several, each is printed when it is complete."""
EPILOG = """examples:
  orca-jax generate 'def fibonacci(n):' --temperature 0 --max-tokens 60
  orca-jax generate --file prompts.jsonl --json --max-num-seqs 8
  git show HEAD~1:setup.py | orca-jax generate --timeline
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_prompt_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object for each prompt when it is complete")
    parser.add_argument(
        "--echo",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="print the prompt before its answer (default: on a terminal)",
    )
    add_timeline_flags(parser)
    add_sampling_flags(parser)
    add_engine_flags(parser)


def run(args: argparse.Namespace) -> int:
    entries = read_prompts(args)
    streams = len(entries) == 1 and not args.json
    params = [_params(args, entry, streams) for entry in entries]
    recorder = recorder_for(args)
    from orca_jax.offline.llm import LLM  # here, so that --help and a wrong flag do not wait for it

    with LLM(**engine_settings(args), observers=[recorder] if recorder else []) as llm:
        prompts = [entry.prompt for entry in entries]
        ids = llm.enqueue(prompts, params, default_max_tokens=llm.config.default_max_tokens)
        start = time.perf_counter()
        if recorder is not None:
            for key, entry in zip(ids, entries, strict=True):
                recorder.name(key, label(entry))
        one_answer = streams and params[0].n == 1
        count = _stream(llm, entries[0], args) if one_answer else _several(llm, ids, entries, args)
        elapsed = time.perf_counter() - start
        show_wanted(args, recorder, llm.info.max_num_seqs, sys.stderr if args.json else sys.stdout)
    if on_terminal(sys.stderr):
        say(styled(f"{count} tokens in {elapsed:.2f} s, {count / elapsed:.0f} tokens/s", DIM, sys.stderr))
    return 0


def label(entry: Entry) -> str:
    """How a prompt is called in one line."""
    return entry.prompt if isinstance(entry.prompt, str) else f"{len(entry.prompt['prompt_token_ids'])} token ids"


def _params(args: argparse.Namespace, entry: Entry, streams: bool) -> SamplingParams:
    if "output_kind" in entry.params:
        raise UsageError(f"{entry.source}: output_kind is for programs; this command prints (leave it out, see --json)")
    settings = {"max_tokens": None, **sampling_settings(args), **entry.params}
    kind = RequestOutputKind.DELTA if streams and settings.get("n", 1) == 1 else RequestOutputKind.FINAL_ONLY
    try:
        return SamplingParams(**{**settings, "output_kind": kind})
    except RequestError as error:
        if not entry.params:
            raise
        raise UsageError(f"{entry.source}: {error}") from error


def _stream(llm: "LLM", entry: Entry, args: argparse.Namespace) -> int:
    """Print one answer as it grows; returns its tokens."""
    if _echoes(args):
        write(label(entry), DIM)
    count = 0
    while llm.has_unfinished:
        for output in llm.step():
            raise_failure(output)
            count += len(output.outputs[0].token_ids)
            write(output.outputs[0].text)
    write("\n")
    return count


def _several(llm: "LLM", ids: list[str], entries: list[Entry], args: argparse.Namespace) -> int:
    """Print each prompt's answers when the last of them has ended; returns the tokens of all."""
    number = {key: place for place, key in enumerate(ids)}
    count = 0
    while llm.has_unfinished:
        for output in llm.step():
            if not output.finished:
                continue
            raise_failure(output)
            place = number[output.request_id]
            count += sum(len(answer.token_ids) for answer in output.outputs)
            if args.json:
                write(json.dumps(as_json(place, output), ensure_ascii=False) + "\n")
            else:
                _print_answers(f"{place + 1}/{len(ids)}", label(entries[place]), output.outputs, args)
    return count


def _print_answers(number: str, prompt: str, answers: list[CompletionOutput], args: argparse.Namespace) -> None:
    for answer in answers:
        which = f" answer {answer.index}" if len(answers) > 1 else ""
        heading = f"[{number}{which}] {one_line(prompt, max(20, width() - 40))}"
        ending = f"{len(answer.token_ids)} tokens, {answer.finish_reason}"
        print(styled(heading, BOLD, sys.stdout), styled(f"({ending})", DIM, sys.stdout))
        if _echoes(args):
            write(prompt, DIM)
        write(answer.text + "\n\n")


def _echoes(args: argparse.Namespace) -> bool:
    return bool(args.echo or (args.echo is None and on_terminal(sys.stdout)))


def raise_failure(output: RequestOutput) -> None:
    """Raise EngineError where a request ended because the engine failed."""
    if any(answer.finish_reason == "error" for answer in output.outputs):
        raise EngineError(output.error or f"request {output.request_id} ended with an error")


def as_json(index: int, output: RequestOutput) -> dict[str, Any]:
    """The output as plain data; `index` counts the prompts from 0. What was not asked for is left out."""
    item: dict[str, Any] = {"index": index, "prompt": output.prompt, "prompt_token_ids": list(output.prompt_token_ids)}
    item["outputs"] = [
        {name: value for name, value in asdict(answer).items() if value is not None or name == "stop_reason"}
        for answer in output.outputs
    ]
    item["seed"] = output.seed
    if output.prompt_logprobs is not None:
        item["prompt_logprobs"] = [
            None if entry is None else {token: asdict(value) for token, value in entry.items()}
            for entry in output.prompt_logprobs
        ]
    return item
