"""A notebook as a page of the site, and notebooks run anew: `python docs/notebook_page.py NOTEBOOK …`."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

SECONDS = 3600
"""That a cell may take."""


def pages(path: Path) -> dict[str, str | bytes]:
    """The page in Markdown, and the pictures that it shows, by file name; what the cells printed is the notebook's."""
    name = path.stem
    body, resources = MarkdownExporter().from_filename(
        str(path), resources={"unique_key": name, "output_files_dir": "."}
    )
    head, rest = body.replace('<table border="1" class="dataframe">', "<table>").split("\n", 1)  # the site's own look
    note = f"This page is a notebook, with what its cells printed: [{path.name}]({path.name})."
    pictures = {Path(place).name: data for place, data in resources["outputs"].items()}
    return {f"{name}.md": f"{head}\n\n{note}\n{rest}", **pictures}


def run(path: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook with what its cells print in a folder. Raises CellExecutionError for one that fails."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
        # where libraries remark on the notebook itself, as that it has no widgets
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    return notebook


if __name__ == "__main__":
    for given in map(Path, sys.argv[1:]):
        nbformat.write(run(given, Path.cwd()), given)
