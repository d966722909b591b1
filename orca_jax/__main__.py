"""`python -m orca_jax` and the `orca-jax` command: Ctrl-C is one line from the very first import on."""

import sys


def main() -> int:
    """Run the command line; returns its exit status."""
    try:
        from orca_jax.cli.main import main as command

        return command()
    except KeyboardInterrupt:  # before the command was there to say so
        sys.stderr.write("orca-jax: interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
