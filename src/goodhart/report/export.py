"""The numbers of a summary as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from goodhart.report.findings import Findings


def to_json(findings: Findings) -> str:
    """Everything that the analysis found; NaN is null, a (split, measure) key is `split/measure`."""
    found = {"study": findings.contents.name, "golden policy": findings.golden_policy, "summary": findings.summary}
    found |= {"verdicts": {each.name: each.verdict for each in findings.rulings}, "rulings": findings.rulings}
    found |= {"axes": findings.axes}
    return json.dumps(_plain(found), indent=1, allow_nan=False)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {"/".join(key) if isinstance(key, tuple) else str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
