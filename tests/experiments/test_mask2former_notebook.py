"""Notebook 09 as a batch run has it: every cell in smoke size, its table and pictures, and no second computation."""

import pytest

from ldmseg_lib.core import paths
from ldmseg_lib.core.files import read_json
from ldmseg_lib.core.profiles import Profile
from ldmseg_lib.pipeline.output import PanopticOutput
from ldmseg_lib.reproduction.results import load_results, write_table
from ldmseg_lib.reproduction.stages import open_stage, stage_key
from ldmseg_lib.reproduction.tables import TABLES
from tests.models.tiny_mask2former import tiny_backbone

NAME = "09_mask2former_baseline"


@pytest.fixture(scope="module")
def overrides(smoke_overrides):
    short = {f"mask2former.{name}training.steps": 4 for name in ("", "mae.")}
    return smoke_overrides | short | {"evaluation.num_inference_steps": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory, smoke_stages, smoke_overrides, smoke_run, overrides):
    """A run folder with the notebook executed, on the networks of `smoke_run` and an untrained ViT as notebook 07's."""
    papermill = pytest.importorskip("papermill")
    folder = tmp_path_factory.mktemp("notebook")
    run_dir = smoke_stages(folder / "run")
    for name in ("05_panoptic_evaluation", "07_components"):
        stage = open_stage(name, profile="smoke", run_dir=run_dir, overrides=overrides)
        metrics = {}
        if name == "07_components":
            tiny_backbone("dinov2").save_pretrained(stage.folder / "vit")
        else:
            images = [smoke_run.dataset.ground_truth(index).image for index in range(4)]
            output: PanopticOutput = smoke_run.pipeline(images, num_inference_steps=1)
            output.save_coco(stage.folder / "both" / "predictions.json", stage.folder / "both" / "png")
            empty = {"All": {"pq": 0.0, "sq": None, "rq": None}, "Things": {"pq": 0.0}, "Stuff": {"pq": 0.0}}
            metrics = {"variants": [{"name": "+ both", "class_agnostic": empty, "panoptic": empty, "miou": 0.0}]}
        stage.finish(metrics, weights="trained by this notebook")
    papermill.execute_notebook(
        str(paths.NOTEBOOKS / f"{NAME}.ipynb"),
        str(folder / f"{NAME}.ipynb"),
        parameters={"profile": "smoke", "run_dir": str(run_dir), "overrides": overrides},
        kernel_name="python3",
        engine_name="terminal",
        cwd=str(paths.NOTEBOOKS),
        progress_bar=False,
    )
    return run_dir


def test_both_kinds_of_features_are_trained_judged_and_timed(run):
    record = read_json(run / NAME / "result.json")
    metrics = record["metrics"]
    assert [model["name"] for model in metrics["models"]] == ["MAE", "self-distilled"]
    for model in metrics["models"]:
        assert model["training"]["steps"] == 4 and model["seconds_per_image"] > 0
        assert 0 <= model["miou"] <= 1 and 0 <= model["panoptic"]["All"]["pq"] <= 1
    assert metrics["ldmseg"]["num_inference_steps"] == 2
    assert record["inputs"]["07_components"] == read_json(run / "07_components" / "result.json")["key"]


def test_figures_are_drawn(run):
    names = ("figure_mask2former_differences", "mask2former_mae_loss", "mask2former_self_distilled_loss")
    for name in names:
        assert all((run / "figures" / f"{name}.{suffix}").stat().st_size > 1000 for suffix in ("png", "pdf"))


def test_a_finished_notebook_is_loaded(run, overrides):
    stage = open_stage(NAME, profile="smoke", run_dir=run, overrides=overrides)
    assert stage.compute(pytest.fail) == stage.result["metrics"]
    stage.finish()


def test_its_table_is_made_from_result_files(run, tmp_path):
    results = load_results(run)
    for stage in ("02_autoencoder", "04_diffusion"):
        results[stage]["metrics"] = {"training": {"steps": 6, "seconds": 1.0}}
    write_table(TABLES["mask2former"], results, tmp_path)
    text = (tmp_path / "mask2former.md").read_text()
    assert "these numbers mean nothing" in text and "published, COCO: Mask2Former (Swin-L)" in text


def test_its_settings_change_its_key_and_not_that_of_ldmseg():
    before, after = Profile.load("smoke"), Profile.load("smoke", "mask2former.layers=4")
    assert stage_key(NAME, before) != stage_key(NAME, after)
    assert stage_key("04_diffusion", before) == stage_key("04_diffusion", after)
