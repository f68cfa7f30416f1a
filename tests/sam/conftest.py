"""Lets the tests in this folder import what they share, ``sam_cases``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
