"""Test helpers of this room are importable by name (there are no packages under tests/)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
