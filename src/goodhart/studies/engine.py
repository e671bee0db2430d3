"""The engine of a study: the kernels and the training precision, chosen by measurement at first use and then kept.

`ROOT/engine` has one folder for each choice. The precision is a part of the addresses of runs, so the studies of one
root that train the same policy have one, whichever machine chose it. Kernels are chosen for each machine.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from goodhart.cells.record import here
from goodhart.compute.choice import Choice
from goodhart.compute.placement import may_have_gpus
from goodhart.config import address, build, plain_data
from goodhart.errors import GoodhartError
from goodhart.models.checkpoint import Checkpoint, find
from goodhart.studies.spec import Study

if TYPE_CHECKING:
    from goodhart.models.precision import Batch, Precision

_PAIRS, _PROMPT, _RESPONSE = 4, 48, 24
"""The largest batch that is timed on a CPU, which is as busy with it as with a whole one."""
_OPERATIONS = 5e9
"""At most this many in a timed pass on a CPU, as long as a pair is left."""


@dataclass(frozen=True)
class Kept:
    """A choice and where it was made."""

    choice: Choice
    processor: str
    torch: str

    @property
    def elsewhere(self) -> bool:
        """Whether another machine chose, or another PyTorch."""
        return (self.processor, self.torch) != here()


@dataclass(frozen=True, slots=True)
class Engine:
    """What a study computes with."""

    kernels: Kept
    precision: Kept

    def plain(self) -> dict[str, Any]:
        """For a record."""
        return {"kernels": plain_data(self.kernels), "precision": plain_data(self.precision)}

    def sentences(self) -> list[str]:
        """What a person should know before the study starts."""
        if self is _OF_TABLES:
            return []
        chosen = self.precision.choice.chosen
        said = [f"trains in {chosen} with {self.kernels.choice.chosen} kernels"]
        if self.precision.elsewhere:
            said.append(
                f"{chosen} was chosen on {self.precision.processor} with PyTorch {self.precision.torch} and is kept, "
                "so that finished runs count; --precision takes another one and makes the runs anew"
            )
        return said


def settled(study: Study, root: Path) -> Study | None:
    """The study with its training precision, where nothing has to be measured for it; this imports no PyTorch."""
    if study.precision != "auto" or study.world:
        return study
    kept = _read(_precision_folder(root, find(study.policy)) / _FILE)
    return kept and replace(study, precision=cast("Precision", kept.choice.chosen))


def settle(study: Study, root: Path, *, keep: bool, gpus: int = 1) -> tuple[Study, Engine]:
    """The study with its training precision, and the engine; measures for some seconds what `root` does not know.

    `keep` writes down what was measured; `gpus` is how many a worker has. Raises GoodhartError if this machine cannot
    train in the study's precision, or if it is to choose one for the machines of a cluster.
    """
    if study.world:
        return study, _OF_TABLES
    trains_here = study.executor.kind == "local"
    if not trains_here and not settled(study, root):
        raise GoodhartError(
            f"precision: auto measures the machine that trains, and the executor {study.executor.kind!r} has others",
            "give --precision float32 or --precision bfloat16",
        )
    policy = find(study.policy)
    held: list[Any] = []

    def model() -> Any:
        from goodhart.compute.quiet import quiet
        from goodhart.models.checkpoint import load_model

        if not held:
            quiet()
            held.append(load_model(policy.path, gpus))
        return held[0]

    def fastest() -> Choice:
        from goodhart.compute import kernels

        return kernels.measure(kernels.layer_shapes(model()), kernels.products())

    fast = _kept(root / "engine" / f"kernels-{policy.digest}-{address(here())}", fastest, keep)
    slim = _precision(study, root, policy, lambda: _timed(study, model(), fast.choice.chosen), keep)
    if held and may_have_gpus():
        import torch

        held.clear()
        torch.cuda.empty_cache()  # this process waits while others make the cells
    chosen = cast("Precision", slim.choice.chosen)
    if chosen == "bfloat16" and trains_here:
        from goodhart.models.precision import check_supported

        check_supported(chosen)
    return replace(study, precision=chosen), Engine(fast, slim)


_TABLES = "a tabular study trains tables, and nothing is measured for them"
_OF_TABLES = Engine(Kept(Choice("default", _TABLES), "", ""), Kept(Choice("float64", _TABLES), "", ""))


def _precision_folder(root: Path, policy: Checkpoint) -> Path:
    return root / "engine" / f"precision-{policy.digest}"


def _precision(study: Study, root: Path, policy: Checkpoint, measure: Callable[[], Choice], keep: bool) -> Kept:
    if study.precision != "auto":
        return _made(Choice(study.precision, "the study or --precision says so"))
    return _kept(_precision_folder(root, policy), measure, keep)


def _timed(study: Study, model: Any, chosen: str) -> Choice:
    from goodhart.compute import kernels
    from goodhart.models import precision

    with kernels.using(chosen):
        return precision.measure(model, _batch(study, model))


def _batch(study: Study, model: Any) -> Batch:
    """On a GPU, which a small batch leaves idle, that of the first arm; on a CPU a few pairs."""
    from goodhart.compute.placement import device
    from goodhart.models.precision import Batch

    arm, task = next(iter(study.arms.values())), study.task
    longest = getattr(model.config, "max_position_embeddings", None) or task.max_prompt + task.max_response
    prompt = min(task.max_prompt, longest // 2)
    response = min(task.max_response, longest - prompt)
    if device() != "cpu":
        return Batch(arm.optimisation.micro_batch or arm.batch, prompt, response)
    prompt, response = min(prompt, _PROMPT), min(response, _RESPONSE)
    each = 6.0 * sum(p.numel() for p in model.parameters()) * (prompt + 2 * response)
    return Batch(max(1, min(_PAIRS, int(_OPERATIONS / each))), prompt, response)


def _made(choice: Choice) -> Kept:
    return Kept(choice, *here())


_FILE = "choice.json"


def _kept(folder: Path, measure: Callable[[], Choice], keep: bool) -> Kept:
    """What a folder holds, else what is measured now; of processes that measure at once the first counts."""
    file = folder / _FILE
    kept = _read(file)
    if kept is not None:
        return kept
    made = _made(measure())
    if not keep:
        return made
    ready = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    ready.mkdir(parents=True)
    (ready / file.name).write_text(json.dumps(plain_data(made), indent=1), encoding="utf-8")
    try:
        ready.rename(folder)  # onto a folder that holds a file it fails
    except OSError:
        shutil.rmtree(ready)
    return _read(file) or made


def _read(file: Path) -> Kept | None:
    if not file.exists():
        return None
    try:
        return build(Kept, json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, GoodhartError) as error:
        raise GoodhartError(f"{file} cannot be read: {error}", f"delete {file.parent} and run again") from error
