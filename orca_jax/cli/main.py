"""The `orca-jax` command: finds the subcommand and turns every way of ending into one line and an exit status.

0 is success, 2 a mistake in what was asked (flags, settings, prompts, checkpoints), 1 a failure while doing it, 130 Ctrl-C,
141 a reader of the output that went away.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from orca_jax.cli import chat, demo, generate, info, serve
from orca_jax.cli.flags import Parser
from orca_jax.cli.platform import spare_compilers
from orca_jax.cli.terminal import UsageError, forget_stdout, never_fail_on_encoding, on_terminal, say
from orca_jax.core.errors import CheckpointError, ConfigError, OrcaError, RequestError
from orca_jax.version import __version__

ABOUT = "Iteration-level scheduling and selective batching (Orca, OSDI '22) in JAX."
COMMANDS = {"generate": generate, "chat": chat, "serve": serve, "info": info, "demo": demo}
MISTAKES = (UsageError, ConfigError, RequestError, CheckpointError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status and raises nothing."""
    argv = sys.argv[1:] if argv is None else list(argv)
    debug = "--debug" in argv
    never_fail_on_encoding()
    spare_compilers(os.environ)
    try:
        args = build_parser().parse_args(argv)
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except SystemExit as end:  # --help and --version
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        say(("\n" if on_terminal(sys.stderr) else "") + "orca-jax: interrupted")  # beside the ^C on a terminal
        return 130
    except BrokenPipeError:  # whoever read the output has had enough
        forget_stdout()
        return 141
    except Exception as error:  # noqa: BLE001  # the last line of defence: report it, with its trace only if asked
        return report(error, debug)


def report(error: Exception, debug: bool) -> int:
    """Write the error as one line, after its traceback where `debug` asks for it; returns the exit status."""
    if debug:
        traceback.print_exception(error)
    known = isinstance(error, OrcaError | OSError)
    text = " ".join(str(error).split()) or type(error).__name__
    if not known:
        text = f"unexpected {type(error).__name__}: {text}" + ("" if debug else " (--debug shows where)")
    say(f"orca-jax: error: {text}")
    return 2 if isinstance(error, MISTAKES) else 1


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="orca-jax", description=ABOUT, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"orca-jax {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(
            name, help=command.HELP, usage=f"orca-jax {name} {command.USAGE}", description=command.DESCRIPTION,
            epilog=command.EPILOG, allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        command.add_arguments(sub)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.set_defaults(run=command.run)
    return parser
