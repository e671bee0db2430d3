"""Which data a name stands for: the digest of local files, or the Hub's commit."""

from __future__ import annotations

import hashlib
from pathlib import Path

from goodhart.errors import GoodhartError


def data_digest(name: str) -> dict[str, str]:
    """Name and digest of a data set, so that changed data are another cell.

    Raises GoodhartError if it is neither a local path nor a data set that the Hub knows.
    """
    path = Path(name).expanduser()
    if path.exists():
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        digest = hashlib.sha256()
        for file in files:
            digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
        return {"name": str(path), "sha256": digest.hexdigest()}
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
