"""Notebook 11 in JupyterLab, from top to bottom, with the networks of a smoke run."""

import nbformat
import numpy as np
import pytest

from ldmseg_lib.core import paths

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NAME = "11_mask_editor.ipynb"


@pytest.fixture
def notebook(browser, server, lab_of, smoke_stages, smoke_overrides):
    """The notebook open in a page, its parameters set to the smoke run."""
    run = server.work / "run"
    smoke_stages(run)
    copy = nbformat.read(paths.NOTEBOOKS / NAME, as_version=4)
    cell = next(cell for cell in copy.cells if "parameters" in cell.metadata.get("tags", ()))
    cell.source += f"\nprofile, run_dir, overrides = 'smoke', {str(run)!r}, {smoke_overrides!r}"
    nbformat.write(copy, server.work / NAME)
    lab = lab_of(browser, server, NAME)
    yield lab
    lab.close()


def test_the_notebook_edits_a_scene_and_goes_on_where_it_was(notebook):
    notebook.run_cells()
    assert notebook.editor().locator("[data-do=inpaint]").is_enabled()
    notebook.drag((6, 6), (20, 24))
    notebook.settled()
    drawn = notebook.seen()
    np.testing.assert_array_equal(drawn, notebook.held())
    notebook.press("inpaint")
    notebook.editor().locator(".me-thumb").first.wait_for()
    known = ~drawn.astype(bool)
    before = notebook.held("ids")
    notebook.press("accept")
    notebook.settled()
    accepted = notebook.held("ids")
    np.testing.assert_array_equal(accepted[known], before[known])
    notebook.run_cells()
    np.testing.assert_array_equal(notebook.seen("ids"), accepted)
    assert notebook.problems == []
    assert notebook.outside == []
