"""`orca-jax batch`: answer a file of requests, and go on after whatever stopped it."""

import argparse
import os
import signal
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_jax.batch.decode import URLS, Decode, openai_item
from orca_jax.batch.job import Job
from orca_jax.batch.paths import Paths
from orca_jax.batch.pipeline import Order, Pipeline, Records, share
from orca_jax.batch.progress import BatchBar
from orca_jax.batch.runner import Limits, Runner
from orca_jax.batch.signals import StopSignals
from orca_jax.batch.sources import FORMATS, open_source
from orca_jax.batch.tables import missing
from orca_jax.batch.words import BatchError, Counts
from orca_jax.cli.flags import add_engine_flags, add_sampling_flags, engine_settings, number, sampling_settings
from orca_jax.cli.terminal import UsageError, say
from orca_jax.core.config import EngineConfig
from orca_jax.core.sampling_params import SamplingParams
from orca_jax.core.settings import flag

if TYPE_CHECKING:
    from orca_jax.batch.engine_answerer import EngineAnswerer

COMPLETIONS, CHAT = URLS
WINDOW = 2**14  # lines that may wait for a slow one before them
HELP = "answer a file of requests; a run that was killed goes on where it was"
USAGE = "[options] -i INPUT -o OUTPUT"
DESCRIPTION = """Answer every line of a file, by default with the model that ships with orca-jax.

The input is JSON Lines in OpenAI's batch format, for /v1/completions and /v1/chat/completions:
  {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "def f("}}
or prompts without an envelope: text (a prompt on each line), JSON Lines with a prompt field beside other fields of the
body, a column of a Parquet file, or ArrayRecord. Their line (row, record) numbers, from 1, are their custom ids, the
sampling flags are their defaults, and what no flag says is as in OpenAI's API: 16 tokens, of a chat --default-max-tokens.

Answers go to OUTPUT and refused or failed lines to a file of errors beside it, each error with its line. Until the run
has ended, both are called ....partial. Killed at any moment, the same command goes on with what has no answer yet;
OUTPUT.state.json says what the answers were made from, and another input, model, seed or default is refused by name.
What is written is synced to the disk every second and at the end. Requests without a seed have one that depends on
--seed and their line alone, so a run that was resumed gives what one in one piece gives.

Exit status: 0 all lines are answered, 1 some are not (see the errors), 2 the run could not be finished (say, a full
disk: the same command goes on), 130 or 143 it was interrupted or terminated."""
EPILOG = """examples:
  orca-jax batch -i requests.jsonl -o answers.jsonl --model ./Qwen3-0.6B
  orca-jax batch -i prompts.txt -o answers.jsonl --max-tokens 100 --temperature 0
  orca-jax batch -i part.parquet -o part0.jsonl --prompt-field text --chat --shard 0/4
"""
SPEED = {
    "max_num_seqs", "max_num_batched_tokens", "enable_chunked_prefill", "lookahead", "block_size",
    "kv_cache_memory_bytes", "gpu_memory_utilization", "attention_backend", "compilation_cache_dir", "max_logprobs",
}  # fmt: skip
"""Settings that decide how fast an answer comes. A resumed run may change them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-i", "--input", metavar="FILE", required=True, help="the requests")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the answers, JSON Lines")
    parser.add_argument("--errors", metavar="FILE", help="lines without an answer (default: OUTPUT's .errors.jsonl)")
    parser.add_argument("--restart", action="store_true", help="forget what an earlier run has answered")
    parser.add_argument(
        "--order", choices=("input", "completed"), default="input",
        help="write answers in the order in which requests are taken (default), or as they are complete",
    )  # fmt: skip
    parser.add_argument(
        "--max-inflight", type=number(int), metavar="N",
        help="most lines in the engine at once (default: 1024, or 2 x max_num_seqs)",
    )  # fmt: skip
    group = parser.add_argument_group("source")
    group.add_argument("--format", choices=FORMATS, help="default: by the file's suffix and its first line")
    group.add_argument("--prompt-field", metavar="NAME", default="prompt", help="JSON field or column of the prompts")
    group.add_argument("--chat", action="store_true", help="prompts without an envelope are a user's messages")
    group.add_argument(
        "--seed-order", type=number(int), metavar="SEED", help="take the lines in a random order, which this decides"
    )
    group.add_argument(
        "--shard", type=_shard, metavar="I/N", default=(0, 1),
        help="only part I (from 0) of N, for N runs beside each other, each with an output of its own",
    )  # fmt: skip
    group.add_argument("--threads", type=number(int), metavar="N", help="threads that read and tokenise ahead")
    group.add_argument("--any-model", action="store_true", help="answer lines that ask for another model, too")
    group.add_argument(
        "--trust-request-chat-template",
        action="store_true",
        help="accept chat templates in lines (sandboxed, but code)",
    )
    add_sampling_flags(parser)
    add_engine_flags(parser)


def run(args: argparse.Namespace) -> int:
    config = EngineConfig.from_settings(engine_settings(args))
    _check(args)
    defaults = _defaults(args)
    paths = Paths.named(args.input, args.output, args.errors)
    paths.check()
    url = CHAT if args.chat else COMPLETIONS
    records, decode = open_source(
        paths.source, args.format, url=url, prompt_field=args.prompt_field, defaults=defaults
    )  # fmt: skip
    with closing(records):
        if decode is openai_item:
            _refuse_defaults(args)
        with Job(paths, _identity(args, config, records, url, defaults), restart=args.restart) as job:
            if job.complete:
                say("orca-jax: an earlier run has finished this (--restart answers it again)")
                return _summary(job.counts, paths)
            job.counts.total = share(len(records), _order(args))
            return _answer(args, config, records, decode, job)


def _answer(args: argparse.Namespace, config: EngineConfig, records: Records, decode: Decode, job: Job) -> int:
    """Build the engine and run the lines through it; returns the exit status."""
    engine_answerer = _engine_answerer()
    from orca_jax.engine.thread import EngineThread
    from orca_jax.offline.building import build

    built = build(config, (), True)
    limits = Limits(args.max_inflight or max(1024, 2 * built.info.max_num_seqs), WINDOW, args.order == "input")
    with EngineThread(built.engine) as thread:
        served = config.model or built.info.model
        models = () if args.any_model else (served, built.info.model, Path(served).name)
        answerer = engine_answerer(
            thread, built.door, built.engine.clock, model=served, models=models,
            trust_templates=args.trust_request_chat_template,
        )  # fmt: skip
        source = Pipeline(records, decode, answerer, done=job.done, order=_order(args), threads=args.threads)
        with closing(source), closing(BatchBar(job.counts)) as bar:
            runner = Runner(
                iter(source), answerer, job, counts=job.counts, names=job.names, limits=limits, unit=records.unit,
                progress=bar,
            )  # fmt: skip
            with StopSignals(runner.stop) as signals:
                ended = runner.run()
    done = job.counts.completed + job.counts.failed
    if not ended:
        say(f"orca-jax: stopped after {done} of {job.counts.total} lines; the same command goes on from there")
        return 128 + (signals.received or signal.SIGINT)
    records.check_unchanged()
    job.finish(job.counts)
    return _summary(job.counts, job.paths)


def _engine_answerer() -> "type[EngineAnswerer]":
    """Here, so that --help and a wrong flag do not wait for it. Raises BatchError where pydantic is not installed."""
    try:
        from orca_jax.batch.engine_answerer import EngineAnswerer
    except ModuleNotFoundError as error:
        raise BatchError(missing("batch", str(error.name))) from error
    return EngineAnswerer


def _summary(counts: Counts, paths: Paths) -> int:
    failed = f", {counts.failed} failed (see {paths.errors})" if counts.failed else ""
    say(f"orca-jax: {counts.completed} lines answered{failed}")
    return 1 if counts.failed else 0


def _order(args: argparse.Namespace) -> Order:
    return Order(args.seed_order, *args.shard)


def _check(args: argparse.Namespace) -> None:
    for name, least, most in (("max_inflight", 1, 2**20), ("threads", 1, 256), ("seed_order", 0, 2**32 - 1)):
        value = getattr(args, name)
        if value is not None and not least <= value <= most:
            raise UsageError(f"{flag(name)} must be {least} to {most}, got {value}")


def _defaults(args: argparse.Namespace) -> dict[str, Any]:
    """The sampling flags as fields of a body. Raises RequestError for a bad one."""
    given = sampling_settings(args)
    SamplingParams(**given)
    body = dict(given)
    if "logit_bias" in body:
        body["logit_bias"] = {str(token): bias for token, bias in body["logit_bias"].items()}
    if args.chat and "logprobs" in body:
        body |= {"logprobs": True, "top_logprobs": body["logprobs"]}
    return body


def _refuse_defaults(args: argparse.Namespace) -> None:
    """A flag that would change nothing is refused."""
    asked = [flag(name) for name in sampling_settings(args)] + ["--chat"] * args.chat
    if asked:
        raise UsageError(f"{asked[0]} is for prompts without an envelope; the bodies in {args.input} say it themselves")


def _identity(
    args: argparse.Namespace, config: EngineConfig, records: Records, url: str, defaults: dict[str, Any]
) -> dict[str, Any]:
    """Everything that an answer depends on, by the name that a refusal uses."""
    errors = Paths.named(args.input, args.output, args.errors).errors
    exempt = {"compilation_cache_dir"} if config.deterministic else SPEED  # bit for bit means the same shapes, too
    return {
        "the input's content": records.digest,
        **{name: value for name, value in asdict(config).items() if name not in exempt},
        "format": args.format,
        "prompt_field": args.prompt_field,
        "url": url,
        "any_model": args.any_model,
        "trust_request_chat_template": args.trust_request_chat_template,
        "shard": list(args.shard),
        "errors": os.path.relpath(errors, Path(args.output).parent),
        **{f"default {name}": value for name, value in defaults.items()},
    }


def _shard(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    found = (int(part), int(parts)) if slash and part.isdecimal() and parts.isdecimal() else (0, 0)
    if not found[0] < found[1]:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form I/N with I from 0 to N-1, such as 0/4")
    return found
