"""Recipes for a finite world: its tables with the golden policy, and labels with the proxy that is learnt from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from goodhart.alignment.optimum import equilibrium
from goodhart.cells.workplace import Workplace
from goodhart.errors import GoodhartError
from goodhart.randomness import permutation, stream
from goodhart.recipes.settings import Labels
from goodhart.tasks.tables import Law, Tables, log_win_rate
from goodhart.tasks.world import CSV, World
from goodhart.tasks.world_file import digest
from goodhart.tasks.world_tables import tables

WORLD_FILE, PROXY_FILE, LABELS_FILE = "world.parquet", "proxy.parquet", "labels.parquet"
_TABLES = pa.schema(
    [
        ("prompt", pa.string()),
        ("response", pa.string()),
        ("reference", pa.float64()),  # its probability under the reference, which every policy starts from
        ("reward", pa.float64()),  # what methods with rewards learn from, logits
        ("wins", pa.list_(pa.float64())),  # the probability to be preferred to each response of the prompt
        ("golden_policy", pa.float64()),  # its probability under the Nash equilibrium; null in the proxy's table
    ]
)
"""One row for each prompt and response, responses in the same order for all prompts."""
_LABELS = pa.schema([("prompt", pa.int64()), ("first", pa.int64()), ("second", pa.int64()), ("label", pa.float64())])
"""Places in the tables, and the probability that the first is preferred as the labels have it."""


def world(work: Workplace) -> dict[str, Any]:
    """`world.parquet` and `prompts.parquet`: the tables of a world, its Nash equilibrium, and its prompts' names."""
    settings = work.setting(World, "world")
    if settings.kind == CSV:
        settings = replace(settings, file=work.places["world"])
        if digest(settings.file) != work.settings["digest"]:
            raise GoodhartError(f"{settings.file} has changed since the study was read", "run the study again")
    arrays = tables(settings)
    golden = equilibrium(arrays.reference, arrays.wins, settings.golden_beta)
    write_tables(work.folder / WORLD_FILE, arrays, golden)
    names = {"prompt": [p.id for p in arrays.asked], "split": ["held_out"] * len(arrays.prompts)}
    listed = ", ".join(arrays.responses)
    texts = {"text": [f"{name}: {listed}" for name in arrays.prompts], "reference": [None] * len(arrays.prompts)}
    pq.write_table(pa.table({**names, **texts}), work.folder / "prompts.parquet")
    first = [(c, b) for c, b in zip(arrays.condorcet, arrays.borda, strict=True) if c is not None]
    return {
        "prompts": len(arrays.prompts),
        "responses": len(arrays.responses),
        "Condorcet winners": len(first),
        "Condorcet and Borda winner differ": sum(c != b for c, b in first),
        "KL of the golden policy": float((golden * np.log(golden / arrays.reference)).sum(1).mean()),
    }


def world_labels(work: Workplace) -> dict[str, Any]:
    """`labels.parquet`: pairs of two uniform responses with the world's labels; `proxy.parquet`: their win matrix.

    The proxy has p(i > j) = (prior + wins of i over j) / (2 prior + pairs of both), and as rewards the logits of its
    win rates against the reference.
    """
    labels, prior, seed = work.setting(Labels, "labels"), float(work.settings["prior"]), int(work.settings["seed"])
    truth, _ = read_tables(work.inputs["world"] / WORLD_FILE)
    size, responses = truth.wins.shape[:2]
    rows = [int(permutation(size, seed, "tabular labels", i // size)[i % size]) for i in range(labels.number)]
    draw = stream(seed, "tabular pairs")
    first, second = draw.integers(responses, size=(2, labels.number))
    likely, coin, noise = truth.wins[rows, first, second], draw.random(labels.number), draw.random(labels.number)
    hard = (np.sign(likely - 0.5) + 1) / 2
    label = {"soft": likely, "hard": hard, "bernoulli": (coin < likely).astype(np.float64)}[labels.mode]
    label = np.where(noise < labels.flip, 1 - label, label)
    won, met = np.zeros_like(truth.wins), np.zeros_like(truth.wins)
    for of, by, share in ((first, second, label), (second, first, 1 - label)):
        np.add.at(won, (rows, of, by), share)
        np.add.at(met, (rows, of, by), 1.0)
    met[:, range(responses), range(responses)] = won[:, range(responses), range(responses)] = 0.0
    wins = (prior + won) / (2 * prior + met)
    proxy = replace(truth, wins=wins, reward=log_win_rate(wins, truth.reference))
    write_tables(work.folder / PROXY_FILE, proxy, None)
    columns = {"prompt": rows, "first": first, "second": second, "label": label}
    pq.write_table(pa.table(columns, schema=_LABELS), work.folder / LABELS_FILE)
    off = ~np.eye(responses, dtype=bool)
    return {
        "pairs": labels.number,
        "labels per pair of responses": float(met[:, off].mean()),
        "proxy less truth, mean distance": float(np.abs(wins - truth.wins)[:, off].mean()),
        "proxy names the same winner": float((np.sign(wins - 0.5) == np.sign(truth.wins - 0.5))[:, off].mean()),
    }


def write_tables(path: Path, arrays: Tables, golden: Law | None) -> None:
    """Write a world's tables."""
    size, responses = arrays.reference.shape
    columns = {
        "prompt": [name for name in arrays.prompts for _ in range(responses)],
        "response": list(arrays.responses) * size,
        "reference": arrays.reference.flatten(),
        "reward": arrays.reward.flatten(),
        "wins": arrays.wins.reshape(-1, responses).tolist(),
        "golden_policy": [None] * (size * responses) if golden is None else golden.flatten(),
    }
    pq.write_table(pa.table(columns, schema=_TABLES), path)


def read_tables(path: Path) -> tuple[Tables, Law | None]:
    """What `write_tables` wrote: the tables, and the golden policy where it is there."""
    table = pq.read_table(path, schema=_TABLES)
    names: list[str] = table.column("prompt").to_pylist()
    prompts = tuple(dict.fromkeys(names))
    shape = (len(prompts), len(names) // len(prompts))
    responses = tuple(table.column("response").to_pylist()[: shape[1]])
    wins = np.array(table.column("wins").to_pylist()).reshape(*shape, shape[1])
    reference, reward = (table.column(name).to_numpy().copy().reshape(shape) for name in ("reference", "reward"))
    golden = table.column("golden_policy")
    return Tables(prompts, responses, reference, wins, reward), (
        None if golden.null_count else golden.to_numpy().copy().reshape(shape)
    )
