"""The dots of the paper's figures (`points.csv`; how they were read is in `provenance.md`)."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float

from goodhart.errors import GoodhartError

SOURCE = "Tang et al. 2024, arXiv 2405.08448 v1"
"""Where every number of this package is from."""

WIN_RATE_ERROR, LOG_KL_ERROR = 0.003, 0.01
"""How far a number read off a figure may be from the one that was drawn."""

TASKS: Mapping[str, str] = {
    "summ": "summarization",
    "help": "helpfulness",
    "arena": "chat arena",
    "harm": "harmlessness",
}
"""The paper's tasks by their short names."""

_LOG_KL = "log KL (nats, base not stated)"


@dataclass(frozen=True)
class Series:
    """The dots of one method in one panel of a figure, in the order of x; hidden dots may be missing."""

    figure: str
    panel: str
    name: str
    x: Float[np.ndarray, " dot"]
    y: Float[np.ndarray, " dot"]
    x_unit: str
    y_unit: str

    @property
    def kl(self) -> Float[np.ndarray, " dot"]:
        """KL(policy || SFT) in nats, exp(x): the paper does not state the base of its logarithm.

        Raises:
            GoodhartError: the panel's x-axis is not log KL.
        """
        if self.x_unit != _LOG_KL:
            raise GoodhartError(
                f"the x-axis of {self.figure}, {self.panel} is {self.x_unit}, not log KL", "choose a frontier figure"
            )
        return np.exp(self.x)


@cache
def _every() -> dict[tuple[str, str, str], Series]:
    with (Path(__file__).parent / "points.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    result: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for row in rows:
        result.setdefault((row["figure"], row["panel"], row["series"]), []).append(row)
    return {name: _series(name, own) for name, own in result.items()}


def _series(name: tuple[str, str, str], rows: Sequence[Mapping[str, str]]) -> Series:
    dots = np.array(sorted((float(row["x"]), float(row["y"])) for row in rows))
    dots.flags.writeable = False  # they are shared by everybody who asks
    return Series(*name, dots[:, 0], dots[:, 1], rows[0]["x_unit"], rows[0]["y_unit"])


def figures() -> tuple[str, ...]:
    """The figures that have dots, in the paper's order."""
    return tuple(sorted({figure for figure, _, _ in _every()}, key=lambda name: int(name.removeprefix("fig"))))


def panels(figure: str) -> tuple[str, ...]:
    """The panels of a figure.

    Raises:
        GoodhartError: there is no such figure.
    """
    result = tuple(dict.fromkeys(panel for at, panel, _ in _every() if at == figure))
    if not result:
        raise _unknown(f"figure '{figure}' of the paper", figures())
    return result


def names(figure: str, panel: str) -> tuple[str, ...]:
    """The series of a panel.

    Raises:
        GoodhartError: there is no such figure or panel.
    """
    result = tuple(name for at, inside, name in _every() if (at, inside) == (figure, panel))
    if not result:
        raise _unknown(f"panel '{panel}' in {figure} of the paper", panels(figure))
    return result


def series(figure: str, panel: str, name: str) -> Series:
    """One method's dots.

    Raises:
        GoodhartError: there is no such figure, panel or series.
    """
    if (figure, panel, name) not in _every():
        raise _unknown(f"series '{name}' in {figure}, {panel} of the paper", names(figure, panel))
    return _every()[figure, panel, name]


def _unknown(what: str, known: Sequence[str]) -> GoodhartError:
    return GoodhartError(f"there are no points of {what}", f"known: {', '.join(known)}")
