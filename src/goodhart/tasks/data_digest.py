"""Which data a name stands for: the digest of local files, or the Hub's commit."""

from __future__ import annotations

import hashlib
from pathlib import Path

from goodhart.errors import GoodhartError
from goodhart.tasks.data_source import find_source


def data_digest(name: str) -> dict[str, str]:
    """Name and digest of a data set, so that changed data are another cell.

    The digest of a folder is of its data files with their places in it, that of a file of its content alone. Raises
    GoodhartError if it is neither a local path nor a data set that the Hub knows.
    """
    path = Path(name).expanduser()
    if path.exists():
        return {"name": str(path), "sha256": _digest(path)}
    if path.suffix or name.startswith((".", "/", "~")):
        raise GoodhartError(f"there is no data file {name!r}", "check the path")
    try:
        from huggingface_hub import dataset_info

        return {"name": name, "commit": str(dataset_info(name).sha)}
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise GoodhartError(
            f"data set {name!r} is not a local path, and the Hub did not answer for it ({reason})",
            "check the name, or download it and give the path",
        ) from error


def check_digest(planned: dict[str, str]) -> None:
    """Raises GoodhartError if local data have changed since `data_digest` named them; Hub data have a commit."""
    path = Path(planned["name"])
    if "sha256" in planned and (not path.exists() or _digest(path) != planned["sha256"]):
        raise GoodhartError(
            f"the data in {path} have changed since the study began", "run it again to use the data as they are now"
        )


def _digest(path: Path) -> str:
    paths = sorted(file for files in find_source(path).splits.values() for file in files)
    digest = hashlib.sha256()
    for file in paths:
        place = str(file.relative_to(path)) if path.is_dir() else ""
        try:
            with file.open("rb") as data:
                content = hashlib.file_digest(data, "sha256").digest()
        except OSError as error:
            raise GoodhartError(f"{file} cannot be read: {error.strerror}", "check the file") from error
        digest.update(f"{len(place)} {place}".encode() + content)
    return digest.hexdigest()
