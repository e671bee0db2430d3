"""The prompts that checkpoints are measured on, and the pieces in which it is done.

A forward pass of another shape rounds otherwise, so what a prompt gets depends a little on what it is computed with.
Pieces of a fixed size make growing exact: a larger measurement has the whole pieces of a smaller one among its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow.parquet as pq

from goodhart.cells.workplace import Workplace
from goodhart.tasks.prompt_table import HeldOut, PromptRow, find_prompts, held_out_number, read_ranked

PROMPTS, DRAWS = 128, 2
"""Prompts of a piece, and draws for each of them."""
SPLITS = ("held_out", "train")


@dataclass(frozen=True, slots=True)
class Piece:
    """Some draws for some prompts of a split; `start` is its first row in a table of all pieces."""

    split: str
    prompts: range
    draws: range
    start: int

    @property
    def rows(self) -> range:
        """Its places in the table: the draws of a prompt stand together."""
        return range(self.start, self.start + len(self.prompts) * len(self.draws))


def pieces(sizes: Mapping[str, int], draws: int) -> list[Piece]:
    """All pieces of so many prompts by split, and draws for each, in the order of a table."""
    result: list[Piece] = []
    start = 0
    for split, number in sizes.items():
        for prompts in _cuts(number, PROMPTS):
            for some in _cuts(draws, DRAWS):
                result.append(Piece(split, prompts, some, start))
                start = result[-1].rows.stop
    return result


def _cuts(total: int, size: int) -> list[range]:
    return [range(start, min(start + size, total)) for start in range(0, total, size)]


@dataclass(frozen=True)
class Panel:
    """The prompts that checkpoints are measured on, by split."""

    held_out: list[PromptRow]
    """In the order of their ranks, so that more of them follow the others."""
    train: list[PromptRow]

    @classmethod
    def read(cls, work: Workplace) -> Panel:
        """Held-out prompts to evaluate, and the first training prompts of the golden data set."""
        table, sizes = work.inputs["prompts"] / "prompts.parquet", work.settings["panel"]
        data = pq.read_table(
            work.inputs["labels"] / "pairs.parquet", columns=["prompt"], filters=[("split", "=", "train")]
        )
        trained = list(dict.fromkeys(data.column("prompt").to_pylist()))[: sizes["train"]]
        by_id = find_prompts(table, trained)
        uses = HeldOut(sizes["validation"], sizes["evaluation"])
        uses.check(held_out_number(table))
        return cls(read_ranked(table, uses.to_evaluate), [by_id[i] for i in trained])

    @property
    def rows(self) -> list[PromptRow]:
        """All of them."""
        return [*self.held_out, *self.train]

    @property
    def sizes(self) -> dict[str, int]:
        """Prompts by split."""
        return {"held_out": len(self.held_out), "train": len(self.train)}

    def of(self, piece: Piece) -> list[PromptRow]:
        """The prompts of a piece."""
        return (self.held_out if piece.split == "held_out" else self.train)[piece.prompts.start : piece.prompts.stop]

    def place(self, piece: Piece) -> slice:
        """Where the prompts of a piece stand among `rows`."""
        before = len(self.held_out) if piece.split == "train" else 0
        return slice(before + piece.prompts.start, before + piece.prompts.stop)
