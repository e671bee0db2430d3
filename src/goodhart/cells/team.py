"""Worker processes that make a cell together, as one worker."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from goodhart.cells import work
from goodhart.cells.cell import Cell
from goodhart.cells.registry import RECIPES
from goodhart.cells.work import Failure
from goodhart.cells.worker import Worker, finished

_LOOK_SECONDS = 60.0
"""For so long it is waited at a time for whoever ends next."""


@dataclass(slots=True, eq=False)
class Team:
    """Workers of which each has a part of every model (`goodhart.compute.ranks`); a cell without models is made by one.

    One process that fails or is killed ends the others, for they wait for it.
    """

    members: Sequence[Worker]
    busy: Sequence[Worker] = ()
    meeting: Path | None = None
    """The folder of the file at which they meet."""

    def make(self, root: str, cell: Cell, threads: int) -> None:
        """Begin what `result` then gives. Raises GoodhartError if a process cannot be begun."""
        what = cell.label or cell.id
        if len(self.members) == 1 or not RECIPES[cell.kind].shared:
            self.busy = self.members[:1]
            self.busy[0].submit(what, work.work, root, cell, threads)
            return
        from goodhart.cells.together import work_together  # brings PyTorch with it

        self.busy, self.meeting = self.members, Path(mkdtemp(prefix="goodhart-"))
        for rank, member in enumerate(self.members):
            asked = str(self.meeting / "meeting"), rank, len(self.members), root, cell
            member.submit(what, work_together, *asked)

    def events(self) -> list[Any]:
        """What becomes ready when one of them has ended."""
        return [event for member in self.busy for event in member.events()]

    def result(self) -> Any:
        """What came of the cell, a Failure if one of them failed; waits for it. None if one of them was killed."""
        if len(self.busy) == 1:
            return self.busy[0].result()
        waiting, ended = list(self.busy), list[Any]()
        while waiting and not any(_is_fault(each) for each in ended):
            for member in finished(waiting, _LOOK_SECONDS):
                waiting.remove(member)
                ended.append(member.result())
        result = next((each for each in ended if _is_fault(each)), ended[0])
        if _is_fault(result):
            self.stop()  # also who has failed: it has not left the others
        if self.meeting:
            shutil.rmtree(self.meeting, ignore_errors=True)
        self.busy, self.meeting = (), None
        return result

    def stop(self) -> None:
        """End all processes, whatever they do."""
        for member in self.members:
            member.stop()


def _is_fault(ended: Any) -> bool:
    return ended is None or isinstance(ended, Failure)
