"""`orca-jax demo`: fourteen prompts that arrive over time, served by one engine, and the timeline of how."""

import argparse
import sys
import tomllib
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_jax.cli.flags import add_engine_flags, engine_settings
from orca_jax.cli.generate import raise_failure
from orca_jax.cli.terminal import BOLD, DIM, say, styled, write
from orca_jax.cli.timeline import save_picture, show_timeline
from orca_jax.core.config import load_settings
from orca_jax.core.outputs import RequestOutput
from orca_jax.core.resources import configs_dir
from orca_jax.core.sampling_params import RequestOutputKind, SamplingParams

if TYPE_CHECKING:
    from orca_jax.observe.timeline import TimelineRecorder
    from orca_jax.offline.llm import LLM

HELP = "serve fourteen code prompts that arrive over time, and draw the iteration timeline"
USAGE = "[options]"
DESCRIPTION = """Serve code prompts of mixed lengths that arrive over time, each answer printed when it is complete.

Then the iteration timeline: who was in which batch, and as what. Without --model, the model that ships with orca-jax
answers; it is small, and so is its wisdom."""
EPILOG = ""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A prompt that comes in before iteration `at`."""

    at: int
    prompt: str
    max_tokens: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", default="out", help="where the picture goes (default: ./out)")
    parser.add_argument(
        "--temperature", type=float, default=0.5, help="0 always takes the most likely token (default: 0.5)"
    )
    add_engine_flags(parser)


def run(args: argparse.Namespace) -> int:
    arrivals = load_arrivals(configs_dir() / "demo" / "requests.toml")
    settings = engine_settings(args)
    if args.config is None:
        settings = {**load_settings(configs_dir() / "engines" / "demo.toml"), **settings}
    from orca_jax.observe.timeline import TimelineRecorder  # here, so that --help and a wrong flag do not wait for it
    from orca_jax.offline.llm import LLM

    recorder = TimelineRecorder()

    with LLM(**settings, observers=[recorder]) as llm:
        say(f"serving {len(arrivals)} prompts on {llm.info.devices[0]}, at most {llm.info.max_num_seqs} at a time")
        serve(llm, arrivals, recorder, args.temperature)
        timeline = recorder.timeline(llm.info.max_num_seqs)
        show_timeline(timeline, sys.stdout)
        print(f"compiled after warm-up: {llm.statistics().get('compiles_after_warm_up', 0)} programs")
    save_picture(timeline, str(Path(args.out) / "timeline.png"))
    return 0


def load_arrivals(path: Path) -> list[Arrival]:
    """The requests of a TOML file, in order of arrival."""
    with path.open("rb") as file:
        items: list[dict[str, Any]] = tomllib.load(file)["request"]
    return sorted((Arrival(**item) for item in items), key=lambda arrival: arrival.at)


def serve(llm: "LLM", arrivals: list[Arrival], recorder: "TimelineRecorder", temperature: float) -> None:
    """Feed the engine while it runs, and print each answer when it ends."""
    coming = deque(arrivals)
    serving: dict[str, Arrival] = {}
    iteration = 0
    while coming or llm.has_unfinished:
        while coming and coming[0].at <= iteration:
            arrival = coming.popleft()
            serving[_enqueue(llm, arrival, recorder, temperature)] = arrival
        for output in llm.step():
            _print(output, serving[output.request_id], iteration)
        iteration += 1


def _enqueue(llm: "LLM", arrival: Arrival, recorder: "TimelineRecorder", temperature: float) -> str:
    params = SamplingParams(
        temperature=temperature, max_tokens=arrival.max_tokens, output_kind=RequestOutputKind.FINAL_ONLY
    )
    (key,) = llm.enqueue(arrival.prompt, params)
    recorder.name(key, arrival.prompt)
    return key


def _print(output: RequestOutput, arrival: Arrival, iteration: int) -> None:
    raise_failure(output)
    answer = output.outputs[0]
    numbers = f"{len(output.prompt_token_ids)} prompt tokens, {len(answer.token_ids)} new"
    heading = f"request {output.request_id}: {numbers}, iterations {arrival.at} to {iteration} ({answer.finish_reason})"
    print(styled(heading, BOLD, sys.stdout))
    write(arrival.prompt, DIM)
    write(answer.text.rstrip() + "\n\n")
