"""Validation does not hang on assert statements: the bad inputs are refused under `python -O`, too."""

import re
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("o_mode.py")


def test_bad_inputs_are_refused_without_asserts():
    done = subprocess.run([sys.executable, "-O", str(PROGRAM)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (checked,) = re.findall(r"^(\d+) bad inputs, 0 not refused", done.stdout, re.MULTILINE)
    assert int(checked) > 200


def test_the_program_says_where_it_would_prove_nothing():
    done = subprocess.run([sys.executable, str(PROGRAM)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
