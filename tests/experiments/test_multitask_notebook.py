"""Notebook 08 as a batch run has it: every cell in smoke size, and a second run that computes nothing."""

import json
import re

import nbformat
import numpy as np
import pytest

from ldmseg_lib.core import paths
from ldmseg_lib.core.files import read_json
from ldmseg_lib.experiments.multitask.study import load_maps
from ldmseg_lib.pipeline.ldmseg import LDMSegPipeline
from ldmseg_lib.reproduction.results import load_results, write_tables

NAME = "08_multitask"


@pytest.fixture(scope="module")
def executed(tmp_path_factory, smoke_stages, smoke_overrides):
    """(run folder, the notebook executed twice), on the networks of `smoke_run`."""
    papermill = pytest.importorskip("papermill")
    folder = tmp_path_factory.mktemp("notebook")
    run = smoke_stages(folder / "run")
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


def test_the_result_has_every_model_and_score(executed):
    run, _ = executed
    metrics = read_json(run / NAME / "result.json")["metrics"]
    names = [model["name"] for model in metrics["models"]]
    assert names == ["instance + semantic (notebook 4)", "depth alone", "all tasks"]
    assert metrics["before"] == names[0] and metrics["multitask"] == names[-1] and metrics["depth_alone"] == names[1]
    joint = metrics["models"][-1]
    assert set(joint["scores"]) == {"instance", "semantic", "panoptic", "depth"}
    assert joint["scores"]["depth"]["constant"]["abs_rel"] > 0
    assert "foreground" in metrics["added"]["scores"]


def test_figures_and_table_are_written_and_say_that_it_is_a_smoke_run(executed):
    run, _ = executed
    for name in ("figure_s1", "multitask_loss", "multitask_foreground"):
        assert (run / "figures" / f"{name}.png").stat().st_size > 1000
        assert (run / "figures" / f"{name}.pdf").stat().st_size > 1000
    write_tables(load_results(run), run / "tables")
    text = (run / "tables" / "multitask.md").read_text()
    assert "mean nothing" in text and "secondary source" in text and "44.1" in text and "44.3" in text
    assert (
        "constant depth" in text and "further steps of batch 8" in text and "held-out images with 2 denoising" in text
    )


def test_the_saved_model_is_asked_as_the_notebook_says(executed):
    run, _ = executed
    pipeline = LDMSegPipeline.from_pretrained(run / NAME / "all_tasks" / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    output = pipeline(np.zeros((20, 30, 3), np.uint8), tasks=("instance", "semantic", "depth"), num_inference_steps=1)
    assert output.depth[0].shape == (20, 30) and output.depth_convention is not None
    assert {"instance", "semantic", "panoptic", "depth"} <= set(load_maps(run / NAME / "maps.npz")[0])


def test_a_second_run_loads_what_the_first_computed(executed):
    _, (first, again) = executed
    text = [json.dumps(cell.outputs) for cell in again.cells if cell.cell_type == "code"]
    assert any("loaded the result" in outputs for outputs in text)
    rows = [re.findall(r"\| all tasks \|[^\\]*", json.dumps(notebook)) for notebook in (first, again)]
    assert rows[0] == rows[1] and len(rows[0]) == 1
