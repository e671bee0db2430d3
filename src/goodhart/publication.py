"""A checkpoint of a study as others get it: a plain model, and a card that says what was measured of it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from goodhart.analysis.table import MEASURES
from goodhart.errors import GoodhartError
from goodhart.printable import printable
from goodhart.report.verdict import MEASURES as IN_WORDS
from goodhart.result import Result
from goodhart.studies.checkpoints import Place, merged
from goodhart.studies.study_file import PRESETS_SHIPPED

OURS = "apache-2.0"
"""The licence of what ships with the package."""


def card(result: Result, place: Place, licence: str = "") -> str:
    """The README of a checkpoint: study, data, settings, and each measure at this checkpoint with its 95% interval.

    Raises GoodhartError if the checkpoint has not been measured.
    """
    from huggingface_hub import ModelCardData

    study = result.record["study"]
    rows = _measured(result, place)
    base, data = _last(str(study["policy"])), _last(str(study["task"].get("data") or study["task"]["kind"]))
    licence = licence or (OURS if study["policy"] in PRESETS_SHIPPED else "other")
    front = ModelCardData(
        license=licence,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["goodhart", "preference-alignment"],
    )
    arm = json.dumps(study["arms"][place.arm], indent=2, ensure_ascii=False)
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"""---
{front.to_yaml()}
---

# {_text(place.arm)}, step {place.step}

A policy of the study `{place.study}` of [Goodhart](https://pypi.org/project/goodhart), a laboratory that compares
methods of preference alignment at equal KL budget: arm `{_code(place.arm)}` at `{_code(place.setting)}`, seed
{place.seed}, step {place.step}. It is an instrument of measurement; its outputs were never checked for safety.

| measured on held-out prompts | [95% interval] |
|---|---|
{table}

- The study asks: {_text(str(study["question"]))}
- Base model: `{_code(base)}`; data: `{_code(data)}`.
- Cell `{place.folder.parent.name}`; made with {_versions(result)}.

```json
{arm.replace("```", "'''")}
```
"""


def prepare(result: Result, place: Place, into: Path, root: Path, licence: str = "") -> list[Path]:
    """Write a checkpoint as a plain Hugging Face model with its card; returns the files.

    Raises GoodhartError for a folder that holds something else, and for a checkpoint that has not been measured.
    """
    text = card(result, place, licence)
    merged(place, into, root)
    (into / "README.md").write_text(text, encoding="utf-8")
    return sorted(path for path in into.rglob("*") if path.is_file())


def push(result: Result, place: Place, to: str, root: Path, licence: str = "", *, private: bool = False) -> str:
    """Upload a checkpoint with its card to a repository of the Hugging Face Hub, which is made; returns its address.

    Raises GoodhartError for what the Hub does not take.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "model"
        prepare(result, place, files, root, licence)
        api = HfApi()
        title = f"{place.study}: {place.arm}, {place.setting}, seed {place.seed}, step {place.step}"
        try:
            address = api.create_repo(to, private=private, exist_ok=True)
            api.upload_folder(repo_id=to, folder_path=files, commit_message=printable(title))
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            words = " ".join(str(error).split())[:300]
            raise GoodhartError(
                f"the Hub does not take {to!r} ({words})", "log in with 'hf auth login', and give --to NAME/MODEL"
            ) from error
    return str(address)


def _measured(result: Result, place: Place) -> list[tuple[str, str]]:
    """Each measure of the checkpoint in words, and its value with its interval."""
    at = (place.setting, place.seed, place.step)
    rows: list[tuple[str, str]] = []
    for measure in MEASURES:
        try:
            measured: list[dict[str, Any]] = result.frontier(place.arm, measure=measure).checkpoints.to_pylist()
        except GoodhartError:  # the hidden measure needs human lines
            continue
        for row in measured:
            if (row["setting"], row["seed"], row["step"]) == at:
                kl = [] if rows else [("KL from the SFT policy, nats", _interval(row, "kl", 2))]
                rows += [*kl, (IN_WORDS[measure], _interval(row, "value", 3))]
    if not rows:
        raise GoodhartError(
            f"step {place.step} of {place.arm!r} has not been measured", f"run 'goodhart run {place.study}' to its end"
        )
    return rows


def _interval(row: dict[str, Any], name: str, digits: int) -> str:
    value, low, high = (f"{row[f'{name}{end}']:.{digits}f}" for end in ("", "_low", "_high"))
    return f"{value} [{low}, {high}]"


def _last(name: str) -> str:
    """A Hub id as it is; of a path its last part, for where it lies says nothing to others."""
    return name if name.count("/") == 1 and not Path(name).exists() else Path(name).name


def _versions(result: Result) -> str:
    versions = result.record.get("versions", {})
    named = (f"{name} {versions[name]}" for name in ("goodhart", "torch", "transformers") if name in versions)
    return ", ".join(named) or "an unknown version"


def _text(words: str) -> str:
    """Names and questions as text: no markup, no line of its own."""
    plain = " ".join(printable(words).split())
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#|!" else letter for letter in plain)


def _code(words: str) -> str:
    return " ".join(printable(words).split()).replace("`", "'")
