"""Tries to break the lab: `python -m campaign [PART …] [--quick]`; docs/reliability.md is what came out."""

from __future__ import annotations

import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
_SOURCE = str(REPOSITORY / "src")
# what is tried is the tree that this folder stands in, also by the commands that it begins
sys.path[:0] = [_SOURCE, str(REPOSITORY / "tests")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (_SOURCE, os.environ.get("PYTHONPATH"))))
