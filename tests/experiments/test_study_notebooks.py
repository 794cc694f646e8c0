"""Notebooks 03 and 06 as a batch run has them: every cell in smoke size, and tables made again from result files."""

import time

import numpy as np
import pandas as pd
import pytest

from ldmseg_lib.core import paths
from ldmseg_lib.core.files import read_json
from ldmseg_lib.core.profiles import Profile
from ldmseg_lib.reproduction.results import load_results, write_tables
from ldmseg_lib.reproduction.stages import open_stage

ENCODINGS, STEPS = "03_encodings", "06_denoising_steps"


@pytest.fixture(scope="module")
def run(tmp_path_factory, smoke_stages, smoke_overrides):
    """A run folder with both notebooks executed."""
    papermill = pytest.importorskip("papermill")
    folder = tmp_path_factory.mktemp("notebooks")
    run_dir = smoke_stages(folder / "run")
    for name in (ENCODINGS, STEPS):
        papermill.execute_notebook(
            str(paths.NOTEBOOKS / f"{name}.ipynb"),
            str(folder / f"{name}.ipynb"),
            parameters={"profile": "smoke", "run_dir": str(run_dir), "overrides": smoke_overrides},
            kernel_name="python3",
            engine_name="terminal",
            cwd=str(paths.NOTEBOOKS),
            progress_bar=False,
        )
    return run_dir


def test_every_encoding_and_palette_is_judged_for_every_seed(run):
    record = read_json(run / ENCODINGS / "result.json")
    settings = Profile.load("smoke").encodings
    trainings = record["metrics"]["trainings"]
    names = ("bits", "colors", "positional", *settings.palettes)
    assert [(t["encoding"], t["seed"]) for t in trainings] == [(n, s) for s in settings.seeds for n in names]
    assert record["weights"] == "trained by this notebook"


def test_every_step_count_is_judged_and_timed(run):
    metrics = read_json(run / STEPS / "result.json")["metrics"]
    settings = Profile.load("smoke").denoising_steps
    table = [row["steps"] for row in metrics["rows"] if row["images"] == settings.num_images]
    assert tuple(table) == settings.counts
    frontier = {(row["sampler"], row["steps"]) for row in metrics["rows"] if row["images"] == settings.frontier_images}
    assert frontier == {(name, count) for name in settings.samplers for count in settings.frontier_counts}
    for name, timing in metrics["timing"].items():
        counts = settings.counts if name == metrics["sampler"] else settings.frontier_counts
        assert tuple(row["steps"] for row in timing["rows"]) == counts
    assert len(metrics["trajectory"]["steps"]) == settings.trajectory_steps


def test_the_result_says_whose_weights_and_which_device(run):
    record = read_json(run / STEPS / "result.json")
    assert record["weights"] == "notebook 04 of this run, averaged"
    assert record["inputs"]["04_diffusion"] == read_json(run / "04_diffusion" / "result.json")["key"]
    timing = record["metrics"]["timing"]["ddim"]
    assert timing["device"].startswith(record["device"]) and timing["precision"] == "fp32" and timing["batch"] == 1


def test_tables_are_made_from_result_files_in_seconds(run, tmp_path):
    names = {"table_s1", "color_palettes", "table_s2", "inference_time", "sampler_frontier", "denoising_trajectory"}
    start = time.process_time()
    written = write_tables(load_results(run), tmp_path)
    assert time.process_time() - start < 5
    assert names <= {file.stem for file in written}
    for name in names:
        assert "these numbers mean nothing" in (tmp_path / f"{name}.md").read_text()
    table = pd.read_csv(tmp_path / "table_s2.csv", skiprows=1)
    assert np.isfinite(table["time [s]"]).all() and table["paper PQ"].tolist() == [8.1, 19.8, 35.5]


def test_figures_are_drawn(run):
    for name in (
        *("color_palettes", "encoding_reconstructions", "figure_s5", "denoising_steps", "inference_time"),
        *("denoising_trajectory", "figure_sampler_frontier"),
    ):
        assert all((run / "figures" / f"{name}.{suffix}").stat().st_size > 1000 for suffix in ("png", "pdf"))


def test_finished_studies_are_loaded_and_not_computed_again(run, smoke_overrides):
    for name in (ENCODINGS, STEPS):
        stage = open_stage(name, profile="smoke", run_dir=run, overrides=smoke_overrides)
        assert stage.compute(pytest.fail) == stage.result["metrics"]
        stage.finish()


@pytest.mark.parametrize("change", ["encodings.num_points=32", "encodings.training.steps=2", "encodings.threshold=0.4"])
def test_what_changes_the_study_of_encodings_changes_its_key_and_not_the_diffusion_model_s(change):
    from ldmseg_lib.reproduction.stages import stage_key

    before, after = Profile.load("smoke"), Profile.load("smoke", change)
    assert stage_key(ENCODINGS, before) != stage_key(ENCODINGS, after)
    assert stage_key("04_diffusion", before) == stage_key("04_diffusion", after)


def test_the_tables_of_other_notebooks_do_not_change_the_keys_of_these():
    from ldmseg_lib.reproduction.stage_keys import stage_keys

    sources = {name: key.ingredients["sources"] for name, key in stage_keys(Profile.load("smoke")).items()}
    for name in (ENCODINGS, STEPS):
        assert not [module for module in sources[name] if module.endswith(("tables", "plots", "findings"))]
    assert {"experiments.encodings.study", "models.encodings", "diffusion.losses"} <= set(sources[ENCODINGS])
    assert {f"experiments.denoising_steps.{part}" for part in ("study", "timing", "trajectory")} <= set(sources[STEPS])
    assert {
        f"experiments.{part}" for part in ("denoising_steps.tables", "encodings.tables", "findings", "records")
    } <= set(sources["14_paper_and_ours"])
