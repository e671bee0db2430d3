"""The numbers of a summary as JSON, and the means of every checkpoint as CSV."""

from __future__ import annotations

import csv
import io
import json

import numpy as np

from goodhart.analysis.summary import SPLITS
from goodhart.analysis.table import MEASURES, read
from goodhart.evaluation.schema import CHECKPOINT
from goodhart.output import json_data
from goodhart.report.findings import Findings


def to_json(findings: Findings) -> str:
    """Everything that the analysis found; NaN is null, a (split, measure) key is `split/measure`."""
    result = {"study": findings.contents.name, "golden policy": findings.golden_policy, "summary": findings.summary}
    result |= {"verdicts": {each.name: each.verdict for each in findings.rulings}, "rulings": findings.rulings}
    result |= {"axes": findings.axes, "league": findings.league}
    return json.dumps(json_data(result), indent=1, allow_nan=False)


_MEANS = ("kl", *MEASURES, "tokens", "entropy")
_SPENT = ("operations", "pairs", "labels", "drift", "drift_spread")


def to_csv(findings: Findings) -> str:
    """One line per checkpoint and split: means over prompts, and what the checkpoint took; KL in nats."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*CHECKPOINT, "split", "prompts", *_MEANS, *_SPENT])
    for split in SPLITS:
        matrix = read(findings.contents.rows, split, _MEANS)
        for i, at in enumerate(matrix.checkpoints):
            values = [matrix.columns[name][i] for name in _MEANS]
            spent = findings.tables.budgets.get(at, {})
            writer.writerow(
                [
                    *(getattr(at, name) for name in CHECKPOINT),
                    split,
                    int(np.isfinite(values[0]).sum()),
                    *(f"{np.nanmean(v):.6g}" if np.isfinite(v).any() else "" for v in values),
                    *(f"{spent[name]:.6g}" if name in spent else "" for name in _SPENT),
                ]
            )
    return buffer.getvalue()
