"""The refusals under `python -O`, where assert statements vanish: a program, because pytest's own would vanish, too.

Run by test_o_mode.py. Prints how much it has checked; the exit status is 1 where anything bad was taken.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from orca_jax.core.errors import ConfigError, RequestError
from orca_jax.protocol.call import Numbering
from orca_jax.protocol.calls import parse_call
from orca_jax.protocol.json_text import read_json
from orca_jax.testing.fake_engine import build_fake_engine
from orca_jax.testing.tiny_tokenizer import write_tokenizer
from tests.core import test_config, test_sampling_params
from tests.protocol import test_refusals


def cases(module, test, *names):
    """The parameters of a test, each as a dictionary."""
    (mark,) = (mark for mark in getattr(module, test).pytestmark if mark.name == "parametrize")
    for values in mark.args[1]:
        yield dict(zip(names, values if len(names) > 1 else [values], strict=True))


def attempts(door):
    """Every bad input of the tables, as what it is, what takes it, and with which error it has to be refused."""

    def served(url, base, fields):
        return parse_call(url, {**base, **fields}).requests(door, Numbering("r", 0, 0.0))

    for fields, _ in test_refusals.BAD_COMPLETIONS:
        yield fields, lambda f=fields: served(test_refusals.COMPLETIONS, {"prompt": "hello"}, f), RequestError
    for fields, _ in test_refusals.BAD_CHATS:
        yield fields, lambda f=fields: served(test_refusals.CHAT, {"messages": test_refusals.HELLO}, f), RequestError
    for case in cases(test_refusals, "test_bad_json", "text"):
        yield case["text"], lambda c=case: read_json(c["text"]), RequestError
    for case in cases(test_sampling_params, "test_bad_values_are_refused_by_name", "given", "text"):
        yield case["given"], lambda c=case: test_sampling_params.SamplingParams(**c["given"]), RequestError
    for test in ("test_row_19_sizes_and_contradictions", "test_ranges_and_types"):
        for case in cases(test_config, test, "settings", "part"):
            settings = case["settings"]
            yield settings, lambda s=settings: test_config.EngineConfig.from_settings(s), ConfigError


def refused(attempt, kind):
    """Whether it was refused, and as it should be."""
    try:
        attempt()
    except kind as error:
        return "\n" not in str(error)
    return False


def main():
    if __debug__:
        print("this program is to be run with python -O")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        built = build_fake_engine(write_tokenizer(Path(folder)))
        checked = [(what, refused(attempt, kind)) for what, attempt, kind in attempts(built.door)]
        built.close()
    taken = [what for what, right in checked if not right]
    for what in taken:
        print(f"taken, or refused with the wrong error: {what!r:.200}")
    print(f"{len(checked)} bad inputs, {len(taken)} not refused as they should be")
    return 1 if taken else 0


if __name__ == "__main__":
    sys.exit(main())
