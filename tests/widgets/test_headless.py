"""A notebook with the editor run by papermill: it finishes, shows a picture, and leaves no widget state in the file."""

import os
from pathlib import Path

import pytest

SOURCE = """
import numpy as np
from fake_pipeline import FakePipeline
from ldmseg_lib import MaskEditor
ids = np.ones((48, 64), int)
ids[10:30, 10:30] = 2
editor = MaskEditor(np.zeros((48, 64, 3), np.uint8), ids, FakePipeline(), run_dir="run")
editor.drop_segment(2)
editor.run(steps=3)
editor.accept()
editor
"""


def test_papermill_needs_no_page(tmp_path, monkeypatch):
    papermill = pytest.importorskip("papermill")
    nbformat = pytest.importorskip("nbformat")
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(here), str(here.parents[1])]))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SOURCE)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "in.ipynb")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    papermill.execute_notebook(
        str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb"), cwd=str(tmp_path), progress_bar=False, log_output=False
    )
    result = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    (output,) = result.cells[-1].outputs
    assert set(output.data) == {"image/jpeg", "text/plain"}
    assert "widgets" not in result.metadata
    assert (tmp_path / "out.ipynb").stat().st_size < 100_000
    assert list((tmp_path / "run").rglob("session.npz"))
