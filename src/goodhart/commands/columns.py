"""What `--columns` says."""

from __future__ import annotations

import json

from goodhart.errors import GoodhartError


def named_columns(text: str) -> dict[str, str]:
    """Columns by the names that a layout has. Raises GoodhartError for what is not name=column, or names one twice."""
    result: dict[str, str] = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        ours, equals, theirs = part.partition("=")
        if not equals or not ours or not theirs or ours in result:
            raise GoodhartError(
                f"--columns: cannot understand {part!r}", "write prompt=question,chosen=best,rejected=worst"
            )
        result[ours] = theirs
    return result


def columns_override(text: str) -> list[str]:
    """The same as what is set in a study's file; nothing where nothing is said."""
    return [f"task.columns={json.dumps(named_columns(text), ensure_ascii=False)}"] if text else []
