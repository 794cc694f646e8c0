"""Notebook 11 as a batch run has it: without a page it edits, exports, and leaves pictures instead of widgets."""

import json

import nbformat
import numpy as np
import pytest
from PIL import Image

from ldmseg_lib.core import paths
from ldmseg_lib.core.files import read_json

NAME = "11_mask_editor"


@pytest.fixture(scope="module")
def executed(tmp_path_factory, smoke_stages, smoke_overrides):
    """(run folder, executed notebooks), on the networks of the smoke run."""
    papermill = pytest.importorskip("papermill")
    folder = tmp_path_factory.mktemp("notebook")
    run = folder / "run"
    smoke_stages(run)
    parameters = {"profile": "smoke", "run_dir": str(run), "overrides": smoke_overrides}
    for out in ("first.ipynb", "again.ipynb"):
        papermill.execute_notebook(
            str(paths.NOTEBOOKS / f"{NAME}.ipynb"),
            str(folder / out),
            parameters=parameters,
            kernel_name="python3",
            engine_name="terminal",
            cwd=str(paths.NOTEBOOKS),
            progress_bar=False,
        )
    return run, [nbformat.read(folder / out, as_version=4) for out in ("first.ipynb", "again.ipynb")]


def outputs(notebook) -> list[dict]:
    cells = (cell for cell in notebook.cells if cell.cell_type == "code")
    return [output.data for cell in cells for output in cell.outputs if "data" in output]


def test_pictures_stand_where_a_page_has_the_editor(executed):
    _, notebooks = executed
    for notebook in notebooks:
        assert sum("image/jpeg" in data for data in outputs(notebook)) == 3
        assert not any("widget" in kind for data in outputs(notebook) for kind in data)
        assert "widgets" not in notebook.metadata
        assert len(json.dumps(notebook)) < 1_500_000


def test_the_export_is_the_accepted_candidate(executed):
    run, _ = executed
    export = run / NAME / "export"
    ids = np.load(export / "ids.npy", allow_pickle=False)
    coco = np.asarray(Image.open(export / "panoptic" / "image.png")).astype(int)
    np.testing.assert_array_equal(coco @ [1, 256, 65536], ids)
    entries = read_json(export / "panoptic.json")["annotations"][0]["segments_info"]
    assert {entry["id"]: entry["area"] for entry in entries} == {
        int(i): int((ids == i).sum()) for i in np.unique(ids[ids > 0])
    }


def test_the_result_says_how_long_an_answer_takes(executed):
    run, notebooks = executed
    metrics = read_json(run / NAME / "result.json")["metrics"]
    assert metrics["steps"] == 20 and set(metrics["seconds"]) == {"1", "4"}
    assert min(metrics["seconds"].values()) > 0
    printed = ["".join(o.get("text", "") for c in n.cells for o in c.get("outputs", ())) for n in notebooks]
    assert "loaded the result" in printed[1] and "loaded the result" not in printed[0]
