"""Rows to arrays: one matrix [checkpoint, prompt] per column, and one cube [point, seed, prompt] per arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int

from goodhart.errors import GoodhartError
from goodhart.evaluation.schema import CHECKPOINT

MEASURES = ("golden_vs_policy", "golden_vs_sft", "proxy_vs_policy", "proxy_vs_sft", "hidden")
"""The columns of ROWS that an arm can be judged by."""

SFT = "sft"
"""The arm whose rows are the start of every frontier, but for arms with an SFT policy of their own."""


@dataclass(frozen=True)
class Checkpoint:
    """The name of one evaluated policy."""

    arm: str
    setting: str
    beta: float | None
    lr: float | None
    seed: int
    step: int


@dataclass(frozen=True)
class Point:
    """A checkpoint without its seed: a point of the sweep at one number of optimiser steps."""

    setting: str
    beta: float | None
    lr: float | None
    step: int


@dataclass(frozen=True)
class Matrix:
    """The numbers of one split: per column [checkpoint, prompt], averaged over samples, NaN where there is none."""

    split: str
    checkpoints: tuple[Checkpoint, ...]
    prompts: tuple[str, ...]
    columns: Mapping[str, Float[np.ndarray, "checkpoint prompt"]]
    anchors: Mapping[str, str] = field(default_factory=dict[str, str])
    """The SFT policy that each arm starts from; `sft` where none is named."""


@dataclass(frozen=True)
class Cloud:
    """An arm's KL (nats) and measure at every point, seed and prompt; the SFT policy is point 0 if `anchored`."""

    arm: str
    points: tuple[Point, ...]
    anchored: bool
    kl: Float[np.ndarray, "point seed prompt"]
    value: Float[np.ndarray, "point seed prompt"]

    @property
    def trained(self) -> Int[np.ndarray, " trained"]:
        """The indices of the points that are not the SFT policy."""
        return np.arange(int(self.anchored), len(self.points))


@dataclass(frozen=True)
class Clouds:
    """The clouds of several arms over the same seeds and prompts, and what had to be left out for that."""

    arms: Mapping[str, Cloud]
    seeds: tuple[int, ...]
    prompts: tuple[str, ...]
    left_out_checkpoints: int
    left_out_prompts: int


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise GoodhartError(f"the table has no column '{name}'", "evaluate again with this version of goodhart")
    return table.column(name)


def floats(table: pa.Table, name: str) -> Float[np.ndarray, " row"]:
    """A numeric column with NaN for null.

    Raises:
        GoodhartError: the table has no such column.
    """
    column = _column(table, name)
    return np.asarray(pc.fill_null(pc.cast(column, pa.float64()), float("nan")).to_numpy(), dtype=np.float64)


def _sorted_codes(table: pa.Table, name: str) -> tuple[Int[np.ndarray, " row"], list[str]]:
    """Each row's place in the sorted distinct values of a string column, so that row order does not matter."""
    encoded = _column(table, name).combine_chunks().dictionary_encode()
    names = np.asarray(encoded.dictionary.to_pylist(), dtype=object)
    order = np.argsort(names)
    place = np.empty(len(names), dtype=np.int64)
    place[order] = np.arange(len(names))
    return place[encoded.indices.to_numpy(zero_copy_only=False)], [str(name) for name in names[order]]


def of_split(table: pa.Table, split: str) -> pa.Table:
    """The rows of one split, in one chunk."""
    _column(table, "split")
    return table.filter(pc.field("split") == split).combine_chunks()


def checkpoint_codes(table: pa.Table) -> tuple[Int[np.ndarray, " row"], tuple[Checkpoint, ...]]:
    """Each row's place among the table's checkpoints, which are sorted by arm, setting, seed and step."""
    arm, arms = _sorted_codes(table, "arm")
    setting, settings = _sorted_codes(table, "setting")
    seed, step = (_column(table, name).to_numpy() for name in ("seed", "step"))
    names = np.stack([arm, setting, seed, step], axis=1).astype(np.int64)
    distinct, first, code = np.unique(names, axis=0, return_index=True, return_inverse=True)
    beta, lr = _column(table, "beta"), _column(table, "lr")
    result = tuple(
        Checkpoint(arms[row[0]], settings[row[1]], beta[at].as_py(), lr[at].as_py(), int(row[2]), int(row[3]))
        for row, at in zip(distinct, first, strict=True)
    )
    return code.reshape(-1), result


def by_checkpoint(table: pa.Table) -> list[tuple[Checkpoint, Int[np.ndarray, " own"]]]:
    """Every checkpoint of a table with the places of its rows."""
    if not table.num_rows:
        return []
    code, checkpoints = checkpoint_codes(table)
    order = np.argsort(code, kind="stable")
    parts = np.split(order, np.searchsorted(code[order], np.arange(1, len(checkpoints))))
    return list(zip(checkpoints, parts, strict=True))


def prompt_codes(table: pa.Table) -> Int[np.ndarray, " row"]:
    """Each row's place among the table's sorted prompts."""
    return _sorted_codes(table, "prompt")[0]


def read(
    rows: pa.Table,
    split: str,
    columns: Sequence[str] = ("kl", *MEASURES),
    anchors: Mapping[str, str] | None = None,
) -> Matrix:
    """The matrices of one split's rows; `anchors` name the SFT policies of arms that do not start from `sft`.

    Raises:
        GoodhartError: a column is missing, or a checkpoint has rows without a finite KL.
    """
    for name in CHECKPOINT:
        _column(rows, name)
    table = of_split(rows, split)
    if table.num_rows == 0:
        return Matrix(split, (), (), {name: np.zeros((0, 0)) for name in columns}, anchors or {})
    code, checkpoints = checkpoint_codes(table)
    prompt, prompts = _sorted_codes(table, "prompt")
    cell, shape = code * len(prompts) + prompt, (len(checkpoints), len(prompts))
    result = {name: _cell_means(floats(table, name), cell, shape) for name in columns}
    if "kl" in result:
        _reject_unmeasured(floats(table, "kl"), code, checkpoints)
    return Matrix(split, checkpoints, tuple(prompts), result, anchors or {})


def _cell_means(
    values: Float[np.ndarray, " row"], cell: Int[np.ndarray, " row"], shape: tuple[int, int]
) -> Float[np.ndarray, "checkpoint prompt"]:
    size, known = shape[0] * shape[1], np.isfinite(values)
    count = np.bincount(cell[known], minlength=size)
    total = np.bincount(cell[known], weights=values[known], minlength=size)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).reshape(shape)


def _reject_unmeasured(
    kl: Float[np.ndarray, " row"], code: Int[np.ndarray, " row"], checkpoints: Sequence[Checkpoint]
) -> None:
    bad = np.flatnonzero(~np.isfinite(kl))
    if len(bad):
        at = checkpoints[int(code[bad[0]])]
        raise GoodhartError(
            f"no finite KL in {len(bad)} rows, first in {at.arm}, {at.setting}, seed {at.seed}, step {at.step}",
            "delete that evaluation's cell and run the study again",
        )


def shared_settings(matrix: Matrix, arms: Sequence[str]) -> frozenset[str]:
    """The settings that all of the arms have."""
    own = [{at.setting for at in matrix.checkpoints if at.arm == arm and at.step > 0} for arm in arms]
    return frozenset(set.intersection(*own)) if own else frozenset()


def clouds(matrix: Matrix, arms: Sequence[str], measure: str, settings: frozenset[str] = frozenset()) -> Clouds | None:
    """The arms' clouds over the seeds and prompts that all of them have; None if nothing is measured in common.

    A point is kept if every common seed has it and, where `settings` are named, if it has one of them; a prompt if
    every kept checkpoint has it.
    """
    seeds = _common_seeds(matrix, arms)
    kept = {arm: _points(matrix, arm, seeds) for arm in arms}
    if settings:
        kept = {arm: {p: at for p, at in points.items() if p.setting in settings} for arm, points in kept.items()}
    if not seeds or not all(kept.values()):
        return None
    used = np.concatenate([np.array(list(points.values()), dtype=np.int64).reshape(-1) for points in kept.values()])
    kl, value = matrix.columns["kl"], matrix.columns[measure]
    measured = np.flatnonzero(np.isfinite(value[used]).all(axis=0) & np.isfinite(kl[used]).all(axis=0))
    if not len(measured):
        return None
    start = {arm: _start(matrix, arm) for arm in arms}
    result = {
        arm: _cloud(arm, kept[arm], kl, value, _anchor(kl, value, start[arm], measured), measured) for arm in arms
    }
    evaluated = sum(at.arm in arms for at in matrix.checkpoints)
    prompts = tuple(matrix.prompts[i] for i in measured)
    candidates = int(np.isfinite(value).any(axis=0).sum())
    return Clouds(result, seeds, prompts, evaluated - len(used), candidates - len(prompts))


def _common_seeds(matrix: Matrix, arms: Sequence[str]) -> tuple[int, ...]:
    sets = [{at.seed for at in matrix.checkpoints if at.arm == arm} for arm in arms]
    return tuple(sorted(set.intersection(*sets))) if sets else ()


def _points(matrix: Matrix, arm: str, seeds: Sequence[int]) -> dict[Point, list[int]]:
    """The checkpoints of each of an arm's trained points in the order of the seeds; only points with all of them."""
    result: dict[Point, dict[int, int]] = {}
    names: dict[tuple[str, int], Point] = {}
    for i, at in enumerate(matrix.checkpoints):
        if at.arm == arm and at.step > 0:
            point = names.setdefault((at.setting, at.step), Point(at.setting, at.beta, at.lr, at.step))
            result.setdefault(point, {})[at.seed] = i
    return {
        point: [runs[seed] for seed in seeds] for point, runs in result.items() if all(seed in runs for seed in seeds)
    }


def _start(matrix: Matrix, arm: str) -> Int[np.ndarray, " sft"]:
    name = matrix.anchors.get(arm, SFT)
    return np.array([i for i, at in enumerate(matrix.checkpoints) if at.arm == name], dtype=np.int64)


def _anchor(
    kl: Float[np.ndarray, "checkpoint prompt"],
    value: Float[np.ndarray, "checkpoint prompt"],
    start: Int[np.ndarray, " sft"],
    measured: Int[np.ndarray, " measured"],
) -> Float[np.ndarray, "2 measured"] | None:
    """KL and measure of the SFT policy on the measured prompts, or None where its rows do not have them all."""
    if not len(start):
        return None
    both = np.stack([kl[start].mean(axis=0), value[start].mean(axis=0)])[:, measured]
    return both if np.isfinite(both).all() else None


def _cloud(
    arm: str,
    points: Mapping[Point, Sequence[int]],
    kl: Float[np.ndarray, "checkpoint prompt"],
    value: Float[np.ndarray, "checkpoint prompt"],
    anchor: Float[np.ndarray, "2 measured"] | None,
    measured: Int[np.ndarray, " measured"],
) -> Cloud:
    at = np.array(list(points.values()), dtype=np.int64)
    cube_kl, cube_value, names = kl[at][:, :, measured], value[at][:, :, measured], tuple(points)
    if anchor is None:
        return Cloud(arm, names, False, cube_kl, cube_value)
    first = np.broadcast_to(anchor[:, None, None, :], (2, 1, at.shape[1], anchor.shape[1]))
    start = Point(SFT, None, None, 0)
    return Cloud(
        arm, (start, *names), True, np.concatenate([first[0], cube_kl]), np.concatenate([first[1], cube_value])
    )
