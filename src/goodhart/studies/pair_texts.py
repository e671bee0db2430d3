"""The pairs that a study has labelled, as texts for whoever labels them in the golden model's place."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from goodhart.cells.cell import Cell, closure
from goodhart.cells.executor import execute
from goodhart.cells.launch import executor_of
from goodhart.cells.screen import Screen
from goodhart.cells.store import Store, write_atomically
from goodhart.errors import GoodhartError
from goodhart.studies.engine import settle
from goodhart.studies.session import LOG_FILE, Workers, check_before, prospect
from goodhart.studies.spec import Study
from goodhart.studies.trunks import Trunks
from goodhart.tasks.prompt_table import find_prompts


def write_pair_texts(study: Study, root: Path, workers: Workers, screen: Console, out: Path) -> int:
    """Write the first `labels.number` training pairs as JSON lines, and make what they need; returns how many.

    Each has its id (`pair`), the digest of its token ids (`texts`), and `prompt`, `first` and `second` as text. The
    files of labels that the study names need not be there yet. Raises GoodhartError if a cell cannot be made.
    """
    if study.world:
        raise GoodhartError("the study has a world, and its pairs have no texts", "name a study of language models")
    study = _unadopted(study)
    check_before(study, root)
    labels = Trunks(study).plain.labels
    _make(closure([labels.inputs["pairs"]]), study, root, workers, screen)
    rows = pair_texts(Store(root), labels, study)
    write_atomically(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return len(rows)


def _unadopted(study: Study) -> Study:
    """The study as it is before there are labels from elsewhere."""
    variants = {
        name: replace(each, labels=replace(each.labels, file="")) if each.labels else each
        for name, each in study.variants.items()
    }
    return replace(study, labels=replace(study.labels, file=""), variants=variants)


def _make(cells: list[Cell], study: Study, root: Path, workers: Workers, screen: Console) -> None:
    """Make what is missing of some cells. Raises GoodhartError if one cannot be made."""
    store = Store(root)
    if all(store.has(cell.id) for cell in cells):
        return
    study, engine = settle(study, root, keep=True)
    ahead = prospect(study, [(cell, store.has(cell.id)) for cell in cells], workers, root, keep=True)
    folder = store.study(study.name)
    folder.mkdir(parents=True, exist_ok=True)
    kernels = engine.kernels.choice.chosen
    with (
        Screen(store, cells, workers.number, screen, ahead.seconds, folder / LOG_FILE) as watch,
        executor_of(study.executor, root, workers.number, kernels, folder, workers.groups) as executor,
    ):
        progress = execute(store, cells, executor, watch)
    for cell, failure in progress.failed.values():
        raise GoodhartError(f"{cell.label or cell.id}: {failure.problem}", failure.remedy)


def pair_texts(store: Store, labels: Cell, study: Study) -> list[dict[str, Any]]:
    """The rows of the pairs that a cell of golden labels would have; what it reads is made."""
    from goodhart.alignment.pair_table import read_pairs
    from goodhart.models.checkpoint import find, load_tokenizer
    from goodhart.recipes.adopted_labels import kinds_of, texts_of
    from goodhart.recipes.people import PAIRS

    folders = {name: store.open(cell.id) for name, cell in labels.inputs.items() if name in ("prompts", "pairs")}
    index = folders["prompts"] / "prompts.parquet"
    pairs, ids, _ = read_pairs(folders["pairs"] / PAIRS, "train", index, study.labels.number, kinds_of(study.labels))
    prompts = find_prompts(index, (prompt.id for prompt in pairs.prompts))
    decode = load_tokenizer(find(study.policy).path).batch_decode
    first, second = (decode([list(r) for r in side], skip_special_tokens=True) for side in (pairs.first, pairs.second))
    return [
        {"pair": pair, "texts": texts, "prompt": prompts[prompt.id].text, "first": one, "second": two}
        for pair, texts, prompt, one, two in zip(ids, texts_of(pairs), pairs.prompts, first, second, strict=True)
    ]
