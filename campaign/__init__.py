"""Tries to break the lab: `python -m campaign [PART …] [--quick]`; docs/reliability.md is what came out."""

from __future__ import annotations

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))  # its small studies are those of the tests
