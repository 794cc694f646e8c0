"""Executed notebooks made fit for a page: without dead widgets, progress and paths of the machine."""

from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from ...core import paths
from ...core.errors import InputError

_WIDGET = "application/vnd.jupyter.widget-view+json"
_PICTURES_AND_TEXT = ("text/html", "text/markdown", "text/latex", "image/png", "image/jpeg", "image/svg+xml")


def clean_notebook(source: Path) -> NotebookNode:
    """The executed notebook `source` for reading.

    A widget is replaced by the picture beside it, which the editor and the browser of results have, and left out where
    there is none (progress bars). What was written to stderr is left out.

    Raises:
        InputError: `source` is no notebook, or stopped at an error.
    """
    try:
        notebook = nbformat.read(source, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise InputError(f"{source}: not a notebook ({' '.join(str(error).split())[:200]})") from None
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        if any(output.output_type == "error" for output in cell.outputs):
            raise InputError(f"{source}: a cell stopped with an error; run the notebook to its end first")
        cell.outputs = [kept for output in cell.outputs if (kept := _readable(output)) is not None]
        cell.metadata = {}
    notebook.metadata = {
        "kernelspec": notebook.metadata.get("kernelspec", {"name": "python3", "display_name": "Python"})
    }
    return notebook


def title_of(notebook: NotebookNode) -> str:
    """The text of its first heading."""
    lines = (line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines())
    return next((line.lstrip("# ").strip() for line in lines if line.startswith("# ")), "")


def _readable(output: NotebookNode) -> NotebookNode | None:
    if output.output_type == "stream":
        output.text = _without_machine(output.text)
        return output if output.name == "stdout" and output.text.strip() else None
    data: dict[str, Any] = output.get("data", {})
    if _WIDGET in data:
        data = {kind: value for kind, value in data.items() if kind in _PICTURES_AND_TEXT}
        if not data:
            return None
    output.data = {kind: _without_machine(value) if isinstance(value, str) else value for kind, value in data.items()}
    return output


def _without_machine(text: str) -> str:
    """Paths inside the project as seen from it: a report is to be shown to others."""
    return text.replace(f"{paths.ROOT}/", "")
