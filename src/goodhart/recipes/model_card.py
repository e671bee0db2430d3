"""The README of a checkpoint, so that a policy found on a disk says what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from goodhart.config import plain_data


def write_model_card(
    folder: Path, title: str, settings: object, inputs: dict[str, Path], *, adapter: bool = False
) -> None:
    """`README.md` with Hugging Face front matter: what trained the model, from which cells, at which settings."""
    made_from = "\n".join(f"- {name}: `{path.name}`" for name, path in sorted(inputs.items()))
    shown: Any = json.dumps(plain_data(settings), indent=2)
    text = f"""---
library_name: {"peft" if adapter else "transformers"}
pipeline_tag: text-generation
tags: [goodhart, preference-alignment]
---

# {title}

Trained by Goodhart, a laboratory that compares preference-alignment methods at equal KL budget. It is an instrument of
measurement, trained on little data; its outputs were never checked for safety.

Made from the cells

{made_from}

with the settings

```json
{shown}
```
"""
    (folder / "README.md").write_text(text, encoding="utf-8")
