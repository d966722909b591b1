"""`orca-jax serve`: OpenAI's API over HTTP."""

import argparse
import dataclasses
import logging
import sys
from typing import Any

from orca_jax.cli.flags import add_engine_flags, add_settings, given_engine_settings, given_settings
from orca_jax.cli.terminal import UsageError, say
from orca_jax.core.config import load_settings

HELP = "serve OpenAI's API over HTTP"
USAGE = "[options] [MODEL]"
DESCRIPTION = """Serve a model, by default the one that ships with orca-jax, at http://127.0.0.1:8000."""
EPILOG = """examples:
  orca-jax serve
  orca-jax serve --model ./checkpoint --dtype bfloat16 --port 8080 --api-key-file key.txt
  curl localhost:8000/v1/completions -H 'Content-Type: application/json' \\
    -d '{"model": "demo", "prompt": "def main():", "max_tokens": 20}'
"""
NEEDS = (
    "orca-jax serve needs FastAPI and uvicorn: pip install 'orca-jax[server]', in a checkout pip install -e '.[server]'"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from orca_jax.server.config import ServerConfig

    parser.add_argument("served", nargs="?", metavar="MODEL", help="the same as --model MODEL")
    group = parser.add_argument_group("server settings", "also as keys of the TOML file")
    add_settings(group, dataclasses.fields(ServerConfig))
    add_engine_flags(parser)


def run(args: argparse.Namespace) -> int:
    from orca_jax.server.config import ServerConfig, split_settings

    file = load_settings(args.config) if args.config else {}
    mine = given_settings(args, [spec.name for spec in dataclasses.fields(ServerConfig)])
    settings = {**file, **mine, **given_engine_settings(args)}
    if args.served is not None:
        if "model" in given_engine_settings(args):
            raise UsageError(f"MODEL = {args.served!r} and --model are both given (drop one)")
        settings["model"] = args.served
    server, engine = split_settings(settings)
    try:
        from orca_jax.server.start import start
    except ModuleNotFoundError as error:
        raise UsageError(f"{NEEDS} ({error.name} is missing)") from error
    from orca_jax.offline.progress import StartBars
    from orca_jax.offline.summary import what_serves

    # What we say of ourselves; of the libraries below only what they warn of.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("orca_jax").setLevel(logging.INFO)
    bars = StartBars()

    def ready(address: str, service: Any) -> None:
        bars.tell(what_serves(service.info))
        say(f"orca-jax: {service.model} is served at {address}")

    return start(server, engine, bars, ready)
