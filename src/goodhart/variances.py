"""Where the noise of studies comes from, as their rows show it: of one that is finished, and what ships."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow.compute as pc

from goodhart.analysis.hypotheses import implied
from goodhart.analysis.noise import FinishedContrast, by_statistic, finished_contrasts
from goodhart.analysis.power import Variances
from goodhart.analysis.study_tables import Tables
from goodhart.cells.store import write_atomically
from goodhart.config import build
from goodhart.report.contents import Contents, read_contents
from goodhart.report.findings import tables_of

SHIPPED = Path(__file__).parent / "analysis" / "variances.json"
"""The variances of the studies in docs/reproduction, for a study that has no rows yet."""
RESAMPLES = 200
"""Of the bootstrap, where standard errors alone are wanted."""


@dataclass(frozen=True)
class Known:
    """Variances with where they are from, and the finished contrasts behind them."""

    variances: Mapping[str, Variances]
    origin: str
    single: bool
    """Whether all of them are of one response to each prompt."""
    contrasts: Sequence[FinishedContrast] = ()


def of_folder(folder: Path) -> Known | None:
    """The variances that a finished study's rows give; None where no contrast has two seeds."""
    contents = read_contents(folder)
    made = _contrasts(contents)
    if not made:
        return None
    single = made[0].design.responses == 1
    return Known(by_statistic(made), f"the rows of {contents.name}", single, made)


def _contrasts(contents: Contents) -> list[FinishedContrast]:
    """Every contrast that the study asks, said or implied, with its companions."""
    hypotheses = contents.hypotheses or implied([arm for arm in contents.arms if arm not in contents.untrained])
    every = {contrast: None for each in hypotheses.values() for contrast, _ in each.asked()}
    return finished_contrasts(replace(tables_of(contents), resamples=RESAMPLES), list(every), _single(contents))


def _single(contents: Contents) -> list[Tables]:
    """The tables with the responses of one number alone, for each number; none where there is one."""
    numbers = sorted(set(contents.rows.column("sample").to_pylist()))
    if len(numbers) == 1:
        return []
    parts = (replace(contents, rows=contents.rows.filter(pc.field("sample") == n)) for n in numbers)
    return [replace(tables_of(part), resamples=RESAMPLES) for part in parts]


def shipped() -> Known:
    """What ships with the package."""
    read = json.loads(SHIPPED.read_text(encoding="utf-8"))
    entries = {name: build(Variances, each, name) for name, each in read["variances"].items()}
    return Known(entries, f"finished studies ({', '.join(read['studies'])})", bool(read["one response"]))


def write_shipped(folders: Sequence[Path]) -> None:
    """Write `SHIPPED` from finished studies: of each statistic the mean over all contrasts that have it.

    Those of studies with one response to a prompt, whose parts cannot be told apart, stand in where no other has it.
    """
    parts = [known for folder in folders if (known := of_folder(folder))]
    entries: dict[str, dict[str, float]] = {}
    for single in (True, False):
        made = [each for part in parts if part.single == single for each in part.contrasts]
        entries |= {name: _rounded(each) for name, each in by_statistic(made).items()}
    names = list(dict.fromkeys(read_contents(folder).name for folder in folders))
    one = all(part.single for part in parts)
    about = {"studies": names, "one response": one, "variances": dict(sorted(entries.items()))}
    write_atomically(SHIPPED, json.dumps(about, indent=1) + "\n")


def _rounded(each: Variances) -> dict[str, float]:
    return {name: value if isinstance(value, int) else float(f"{value:.4g}") for name, value in asdict(each).items()}


def joined(first: Known | None, second: Known) -> Known:
    """The first's variances, and the second's for statistics that the first has not."""
    if first is None:
        return second
    return replace(first, variances={**second.variances, **first.variances})
