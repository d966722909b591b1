"""`python -m orca_jax` is the `orca-jax` command."""

import sys

from orca_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
