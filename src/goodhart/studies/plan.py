"""What a study is made of: its cells and what each measures."""

from __future__ import annotations

from dataclasses import dataclass

from goodhart.cells.cell import Cell

SFT, GOLDEN_POLICY = "sft", "golden policy"
"""Names of the two baselines among the arms of a table."""


def sft_of(variant: str) -> str:
    """The name of a variant's own SFT policy among the arms of a table."""
    return f"{SFT} ({variant})"


@dataclass(frozen=True, slots=True)
class Measured:
    """A table of rows in a cell and the name of what it measures."""

    cell: Cell
    arm: str
    setting: str
    beta: float | None
    lr: float | None
    seed: int
    step: int
    rows: str = "rows.parquet"
    """The cell's file of rows."""
    pairs: str = "pairs.parquet"
    """Its file of classified pairs; empty where there is no policy to classify with."""
    run: Cell | None = None
    """The training run whose checkpoint it is."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """A recorded stream with its classifiers."""

    cell: Cell
    arm: str
    setting: str
    seed: int


@dataclass(frozen=True, slots=True)
class Trunk:
    """What the arms of a variant share."""

    sft: Cell
    labels: Cell
    """The golden data set with log-probabilities of this SFT policy."""
    tests: Cell
    """Pairs that only measure, with golden labels and the same log-probabilities."""
    golden: Cell
    """The judge."""
    golden_policy: Cell
    """The baseline of its win rates."""
    proxy: Cell
    opponents: Cell
    anchor: str
    """The name of this SFT policy among the arms of a table."""


@dataclass(frozen=True, slots=True)
class Graph:
    """All cells of a study."""

    prompts: Cell
    pairs: Cell
    test_pairs: Cell
    trunks: dict[str, Trunk]
    """By variant; the study's own has the empty name."""
    quality: dict[str, Cell]
    """How well each preference model judges, by role."""
    runs: dict[tuple[str, str, int], Cell]
    """Training runs by arm, setting and seed."""
    measured: list[Measured]
    streams: list[Streamed]
    """Recorded streams that are classified."""

    @property
    def sft(self) -> Cell:
        """The study's own SFT policy."""
        return self.trunks[""].sft

    @property
    def golden(self) -> Cell:
        """The study's own judge."""
        return self.trunks[""].golden

    @property
    def golden_policy(self) -> Cell:
        """The study's own baseline."""
        return self.trunks[""].golden_policy

    @property
    def labels(self) -> Cell:
        """The study's own golden data set."""
        return self.trunks[""].labels

    @property
    def proxy(self) -> Cell:
        """The study's own proxy."""
        return self.trunks[""].proxy

    @property
    def opponents(self) -> Cell:
        """The fixed responses that checkpoints are judged against."""
        return self.trunks[""].opponents

    @property
    def targets(self) -> list[Cell]:
        """What must be there in the end."""
        measured = [item.cell for item in (*self.measured, *self.streams)]
        return [*measured, self.opponents, *self.quality.values()]
