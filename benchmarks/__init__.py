"""Measurements of claims, each a folder with its script and the page it writes.

They share helpers with the tests.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
