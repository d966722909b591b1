"""Runs over a double in processes of their own, to be killed. They are forked, so that starting one takes no second.

Each line of standard input is `INPUT OUTPUT ORDER SECONDS_PER_ANSWER`; the answer is the pid of the process that runs it,
and, when the next line comes or the input ends, how it ended.
"""

import os
import sys
import warnings

import grain  # noqa: F401  # here, not in every child

from orca_jax.batch.paths import Paths
from orca_jax.batch.runner import Limits
from tests.batch.doubles import EchoAnswerer
from tests.batch.runs import run_batch


def run(source: str, output: str, order: str, delay: str) -> None:
    run_batch(
        Paths.named(source, output), EchoAnswerer(float(delay), scramble=True),
        limits=Limits(inflight=8, window=64, in_order=order == "input"),
    )  # fmt: skip


def main() -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # of forking a process that has threads: none of them is ours
    for command in sys.stdin:
        child = os.fork()
        if child == 0:
            run(*command.split())
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
