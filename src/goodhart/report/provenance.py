"""Where a study's numbers come from: data, settings, versions, machine, cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from goodhart.report.grid import Grid, counted, flattened, plain

_SIDES = (("train", "training packages"), ("held_out", "held-out packages"))


def data_grids(data: Mapping[str, Any]) -> list[Grid]:
    """What was collected, what was left out and why, and how it was split."""
    grids: list[Grid] = []
    for side, words in _SIDES:
        if "corpus" in data:
            grids += _corpus(words, data["corpus"]["counts"][side])
    for kind in ("prompts", "preferences"):
        if kind in data:
            grids += _prompts(data[kind]["counts"])
    initial = [data[kind] for kind in ("pairs", "test pairs") if "kinds" in data.get(kind, {})]
    if initial:
        ties, kinds = sum(part["ties settled by a coin"] for part in initial), [part["kinds"] for part in initial]
        note = f"Preferred by similarity to the human line; a keyed coin settled {ties:,} ties."
        both = {name: number for part in kinds for name, number in part.items()}
        grids.append(counted("Initial pairs: what stands against what", both, "split and kind", note))
    return grids


def _corpus(side: str, counts: Mapping[str, Any]) -> list[Grid]:
    packages: Mapping[str, int] = counts["packages"]
    note = f"{counts['kept']:,} docstrings kept from {len(packages)} packages."
    return [
        counted(f"Left out, {side}", counts["left out"], "reason", note),
        counted(f"Kept, {side}", packages, "package"),
    ]


def _prompts(counts: Mapping[str, Any]) -> list[Grid]:
    lengths = [f"{name}: {plain(counts[name])}" for name in counts if name.endswith("mean")]
    lengths += [f"{name}: {plain(counts[name])}" for name in ("pairs", "marks", "layout") if name in counts]
    return [
        counted("Prompts by split", counts["splits"], "split", "; ".join(lengths) + "."),
        counted("Prompts filtered or cut", counts["left out"], "reason"),
    ]


def label_grid(labels: Mapping[str, Any], tests: Mapping[str, Any], sft: Mapping[str, Any]) -> Grid:
    """The golden data set, the pairs that only measure, and the SFT policy in numbers."""
    agreement = "agreement with initial labels"
    adopted = "adopted" in labels
    rows = [
        (f"{'adopted' if adopted and split == 'train' else 'golden'} pairs, {split}", f"{n:,}")
        for part in (labels, tests)
        for split, n in part.get("pairs", {}).items()
    ]
    agreed = {**labels[agreement], **tests.get(agreement, {})}
    rows += [(f"golden agrees with initial labels, {split}", f"{share:.3f}") for split, share in agreed.items()]
    rows += [
        ("first response preferred", f"{labels['first preferred']:.3f}"),
        ("ties" if adopted else "golden ties", f"{labels['ties']:,}"),
    ]
    names = [name for name in sft if name.startswith("nats per token")]
    rows += [(f"SFT policy on human lines, {name}", f"{sft[name]:.2f}") for name in names]
    rows.append(("SFT policy, parameters", f"{sft['parameters']:,}"))
    note = "A policy that reads needs fewer nats for a line after its own prompt than after another one."
    return Grid("Golden data set and SFT policy", ("quantity", "value"), tuple(rows), note)


def adopted_grids(adopted: Mapping[str, Mapping[str, Any]]) -> list[Grid]:
    """Where labels come from that the golden model has not given, and what it says of the same pairs."""
    grids: list[Grid] = []
    for variant, found in adopted.items():
        rows = [(name, f"{n:,}") for name, n in found.items() if isinstance(n, int)]
        rows.insert(1, ("agreement with golden labels", f"{found['agreement with golden']:.3f}"))
        whose = f" of variant {variant}" if variant else ""
        note = (
            f"Labels{whose} adopted from {found['file']}, sha256 {found['sha256']}. The golden model measures, and "
            f"labels what validates and tests; in the agreement a tie beside a preference counts one half."
        )
        grids.append(Grid(f"Adopted labels{whose}", ("quantity", "value"), tuple(rows), note))
    return grids


def settings_grid(study: Mapping[str, Any]) -> Grid:
    """Every setting of the study that is read."""
    judges = {name: _read(study[name]) for name in ("golden", "proxy") if name in study}
    return Grid("Every setting", ("setting", "value"), tuple(flattened({**study, **judges})))


def _read(judge: Mapping[str, Any]) -> dict[str, Any]:
    """Of a rule its kind and itself, of a model all but that it is none."""
    rule = judge.get("rule")
    return {"kind": judge["kind"], "rule": rule} if rule else {k: v for k, v in judge.items() if k != "rule"}


def origin_grids(record: Mapping[str, Any]) -> list[Grid]:
    """Versions, machine, what was chosen for it, and source tree; one grid for each part that was joined."""
    parts = record.get("parts")
    if not parts:
        return [_origin("Versions and machine", record)]
    return [_origin(f"Versions and machine: {_of_seeds(part['seeds'])}", part) for part in parts]


def _origin(title: str, record: Mapping[str, Any]) -> Grid:
    rows = [*flattened(record["versions"]), *flattened(record["machine"]), *_chosen(record.get("engine", {}))]
    rows.append(("source tree (git)", plain(record["git"])))
    return Grid(title, ("what", "which"), tuple(rows))


def _of_seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(str(seed) for seed in seeds)}"


def _chosen(engine: Mapping[str, Any]) -> list[tuple[str, str]]:
    """One line for each choice; a study from before there was one to make has none."""
    names = {"kernels": "float32 kernels", "precision": "training precision"}
    choices = [(names[name], kept["choice"]) for name, kept in engine.items()]
    return [(name, f"{choice['chosen']}: {choice['reason']}") for name, choice in choices]


def cell_grid(cells: list[dict[str, Any]]) -> Grid:
    """Every cell with its files' digests."""
    rows: list[tuple[str, ...]] = []
    for cell in cells:
        files = "\n".join(f"{digest[:16]}  {name}" for name, digest in cell["files"].items())
        rows.append((cell["id"], cell["label"], files, f"{cell['seconds']:.1f}"))
    note = "Digests are the first 16 digits of the files' SHA-256; cell.json in each cell's folder has them whole."
    return Grid("Cells", ("cell", "what", "files", "seconds"), tuple(rows), note)
