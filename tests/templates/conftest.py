"""Lets the tests of this folder import what lies beside them, and the deciders of tests/security."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "security")]
