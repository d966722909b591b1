"""The flags that several commands share, read off the very tables that the library checks values with."""

import argparse
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from orca_jax.cli.terminal import UsageError
from orca_jax.core.config import SIZES, EngineConfig, load_settings, memory_size
from orca_jax.core.errors import ConfigError
from orca_jax.core.sampling_params import SamplingParams
from orca_jax.core.settings import allowed_types, flag
from orca_jax.core.unsupported import SETTINGS_OF_OTHERS

# name on the command line, name in SamplingParams, type, meaning
_NUMBERS: tuple[tuple[str, str, type, str], ...] = (
    ("--max-tokens", "max_tokens", int, "most new tokens (default: what fits, at most --default-max-tokens)"),
    ("--min-tokens", "min_tokens", int, "fewest new tokens"),
    ("--n", "n", int, "answers for each prompt; needs a temperature above 0 if more than one"),
    ("--temperature", "temperature", float, "0 always takes the most likely token (default: 1)"),
    ("--top-k", "top_k", int, "sample among the k most likely tokens; 0 is off"),
    ("--top-p", "top_p", float, "sample among the most likely tokens of this total probability"),
    ("--min-p", "min_p", float, "drop tokens below this share of the most likely one's probability"),
    ("--presence-penalty", "presence_penalty", float, "lower tokens that have occurred, -2 to 2"),
    ("--frequency-penalty", "frequency_penalty", float, "lower tokens by how often they have occurred, -2 to 2"),
    ("--repetition-penalty", "repetition_penalty", float, "divide the logits of tokens that have occurred; 1 is off"),
    ("--sampling-seed", "seed", int, "seed of every request (SamplingParams.seed); --seed only derives them"),
    ("--logprobs", "logprobs", int, "report so many of the most likely tokens (seen with --json)"),
    ("--prompt-logprobs", "prompt_logprobs", int, "the same for the prompt's tokens"),
)


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for every setting, and a file of them; flags win over the file."""
    group = parser.add_argument_group("engine settings", "also as keys of a TOML file and arguments of orca_jax.LLM")
    group.add_argument("--config", metavar="FILE", help="TOML file of these settings; flags given beside it win")
    add_settings(group, dataclasses.fields(EngineConfig))
    group.add_argument(
        "--async-scheduling", action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS,
        help="vLLM's name for --lookahead 1 (or 0)",
    )  # fmt: skip


def engine_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given, from the file and the flags, ready for `LLM(**settings)`."""
    return {**(load_settings(args.config) if args.config else {}), **given_engine_settings(args)}


def given_engine_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The engine's settings that were given as flags."""
    return given_settings(args, [spec.name for spec in dataclasses.fields(EngineConfig)] + ["async_scheduling"])


def given_settings(args: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Those of `names` that were given as flags."""
    given = vars(args)
    return {name: given[name] for name in names if name in given}


def add_settings(group: Any, specs: Iterable["dataclasses.Field[Any]"]) -> None:
    """A flag for each field of a dataclass of settings; one that is not given leaves no trace in the arguments."""
    for spec in specs:
        _add_setting(group, spec)


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    """Flags for SamplingParams; the ones that are not given keep their defaults."""
    group = parser.add_argument_group("sampling", "under the names of orca_jax.SamplingParams")
    for name, field, kind, meaning in _NUMBERS:
        group.add_argument(
            name, dest=f"sampling_{field}", type=number(kind), help=meaning, metavar=kind.__name__.upper()
        )
    group.add_argument(
        "--stop", dest="sampling_stop", action="append", metavar="TEXT", help="end at this text (repeatable)"
    )
    group.add_argument(
        "--stop-token-ids",
        dest="sampling_stop_token_ids",
        type=number(int),
        action="append",
        metavar="ID",
        help="end at this token (repeatable)",
    )
    group.add_argument(
        "--bad-words",
        dest="sampling_bad_words",
        action="append",
        metavar="TEXT",
        help="a text that must not be generated (repeatable)",
    )
    group.add_argument(
        "--allowed-token-ids", dest="sampling_allowed_token_ids", type=number(int), action="append", metavar="ID",
        help="nothing but these tokens (repeatable)",
    )  # fmt: skip
    group.add_argument(
        "--logit-bias", dest="sampling_logit_bias", type=_bias, action="append", metavar="ID=BIAS",
        help="add to a token's logit, -100 to 100 (repeatable)",
    )  # fmt: skip
    for name, meaning in (
        ("ignore-eos", "go on after the end-of-sequence token"),
        ("include-stop-str-in-output", "keep the stop text in the answer"),
    ):
        group.add_argument(
            f"--{name}", dest="sampling_" + name.replace("-", "_"), action="store_true", default=None, help=meaning
        )
    group.add_argument(
        "--skip-special-tokens", dest="sampling_skip_special_tokens", action=argparse.BooleanOptionalAction, default=None,
        help="leave special tokens out of the text (default: yes)",
    )  # fmt: skip


def sampling_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The sampling parameters that were given, by their names in SamplingParams."""
    fields = {spec.name for spec in dataclasses.fields(SamplingParams)}
    given = {
        name.removeprefix("sampling_"): value
        for name, value in vars(args).items()
        if name.startswith("sampling_") and value is not None
    }
    given = {name: value for name, value in given.items() if name in fields}
    if "logit_bias" in given:
        given["logit_bias"] = dict(given["logit_bias"])
    return given


def number(kind: type) -> Callable[[str], Any]:
    """A reader for argparse whose error names what was written; underscores and exponents are no integers here."""

    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            wanted = "an integer" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}") from None

    return read


def _add_setting(group: Any, spec: "dataclasses.Field[Any]") -> None:
    meaning = spec.metadata["help"].replace("%", "%%")
    types = allowed_types(spec.type)
    if spec.default is not None and bool not in types and "default" not in meaning:
        meaning += f" (default: {spec.default})"
    kind = next(kind for kind in types if kind is not type(None))
    if kind is bool:
        state = "on" if spec.default else "off"
        group.add_argument(
            flag(spec.name), action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS,
            help=f"{meaning} (default: {state})",
        )  # fmt: skip
        return
    reader = _size if spec.name in SIZES else number(kind) if kind in (int, float) else str
    choices = spec.metadata["choices"]
    group.add_argument(
        flag(spec.name), type=_or_none(reader) if type(None) in types else reader, default=argparse.SUPPRESS, help=meaning,
        metavar="{" + ",".join(choices) + "}" if choices else spec.name.upper(),
    )  # fmt: skip


def _size(text: str) -> int:
    try:
        return memory_size(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _or_none(reader: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: None if text == "none" else reader(text)


def _bias(text: str) -> tuple[int, float]:
    token, equals, bias = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form ID=BIAS, such as 50=-100")
    return number(int)(token), number(float)(bias)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are exceptions, so that there is one place that reports them."""

    def error(self, message: str) -> Any:
        unknown, _, rest = message.partition("unrecognized arguments: ")
        name = rest.split("=")[0].split(" ")[0].removeprefix("--").replace("-", "_")
        if not unknown and name in SETTINGS_OF_OTHERS:
            raise UsageError(f"{flag(name)} is not supported by this engine (leave it out)")
        raise UsageError(f"{message} (see {self.prog} --help)")
