"""What `mkdocs build` asks of the pages beside their text: generated parts, notebooks, files from outside `docs`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import generate  # noqa: E402
import notebook_page  # noqa: E402

MADE = {"keys": generate.keys_page, "commands": generate.commands_page, "methods": generate.methods_page}
"""By the word in `<!-- made here: WORD -->`."""
OUTSIDE = {"../recipes/README.md": "recipes.md", "../CHANGELOG.md": "changes.md"}
"""Files of the repository that are pages of the site, by their path from `docs`."""
_MARK = re.compile(r"<!-- made here: (\w+) -->")
_NOTEBOOK = re.compile(r"\]\(([\w/.-]*?)([\w-]+)\.ipynb\)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are made of notebooks, with their pictures, and those from outside."""
    for path, place in OUTSIDE.items():
        files.append(File.generated(config, place, content=(HERE / path).read_text(encoding="utf-8")))
    for notebook in sorted((HERE / "notebooks").glob("*.ipynb")):
        for name, content in notebook_page.pages(notebook).items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Put what is generated in the place of its mark, and pages in the place of notebooks and of files outside."""
    for path, place in OUTSIDE.items():
        markdown = markdown.replace(f"]({path})", f"]({place})")
    here = Path(page.file.src_uri).stem  # which names its own notebook as a file
    markdown = _NOTEBOOK.sub(lambda link: link[0] if link[2] == here else f"]({link[1]}{link[2]}.md)", markdown)
    return _MARK.sub(lambda mark: MADE[mark[1]](), markdown)
