"""Notebook 13: one's own folder, converted, trained on, judged; without one, scenes that it converts itself."""

import json
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from ldmseg_lib.core import paths
from ldmseg_lib.core.errors import InputError
from ldmseg_lib.core.files import read_json
from ldmseg_lib.core.profiles import Profile
from ldmseg_lib.data.check import check_dataset
from ldmseg_lib.data.panoptic import PanopticDataset
from ldmseg_lib.data.scenes.dataset import scene_seed
from ldmseg_lib.data.scenes.scene import draw_scene
from ldmseg_lib.data.splits import validation_split
from ldmseg_lib.experiments.own_dataset.instance_quality import confidence_maps, evaluate_instances, scored_segments
from ldmseg_lib.experiments.own_dataset.study import central_crop, own_folder, own_profile, train_and_judge
from ldmseg_lib.experiments.segmentation import Cleaning, evaluate_segmentation, sample_split
from ldmseg_lib.pipeline.ldmseg import LDMSegPipeline
from ldmseg_lib.reproduction.results import load_results, write_table
from ldmseg_lib.reproduction.stages import open_stage
from ldmseg_lib.reproduction.tables import TABLES

NAME = "13_own_dataset"
SMALL = {"own_dataset.train_scenes": 4, "own_dataset.val_scenes": 2, "own_dataset.diffusion_steps": 3}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the notebook executed, and nothing else in it."""
    papermill = pytest.importorskip("papermill")
    folder = tmp_path_factory.mktemp("own")
    (folder / "run" / "notebooks").mkdir(parents=True)
    papermill.execute_notebook(
        str(paths.NOTEBOOKS / f"{NAME}.ipynb"),
        str(folder / "run" / "notebooks" / f"{NAME}.ipynb"),
        parameters={"profile": "smoke", "run_dir": str(folder / "run"), "overrides": SMALL},
        kernel_name="python3",
        engine_name="terminal",
        cwd=str(paths.NOTEBOOKS),
        progress_bar=False,
    )
    return folder / "run"


def test_the_notebook_makes_a_model_a_score_pictures_and_an_editor(run: Path) -> None:
    record = read_json(run / NAME / "result.json")
    metrics = record["metrics"]
    assert metrics["num_ids"] == 16 and metrics["min_area"] == 2 and metrics["images"] == {"train": 4, "val": 2}
    assert len(metrics["per_image"]) == 2 and record["weights"] == "trained by this notebook"
    for name in ("ap50", "ap75", "ap"):
        assert 0 <= metrics[name] <= 1
    assert (run / NAME / "diffusion" / "pipeline" / "model_index.json").is_file()
    for suffix in ("png", "pdf"):
        assert (run / "figures" / f"figure_own_dataset_best.{suffix}").is_file()
    executed = nbformat.read(run / "notebooks" / f"{NAME}.ipynb", as_version=4)
    shown = json.dumps(executed.cells)
    assert "num_ids = 16, min_area = 2 px" in shown and "image/jpeg" in shown
    assert list(run.glob(f"{NAME}/masks")) == []


def test_its_table_says_ids_area_data_and_budget(run: Path, tmp_path: Path) -> None:
    write_table(TABLES["own_dataset"], load_results(run), tmp_path)
    text = (tmp_path / "own_dataset.md").read_text()
    for part in ("class-agn. PQ", "AP50", "num_ids", "min_area", "crops of 40 px seen at 32 px", "6 steps of batch 8"):
        assert part in text, part
    assert "device:" in text and "Smoke run" in text


def test_without_a_folder_the_masks_of_things_are_converted(run: Path) -> None:
    root = run / NAME / "data"
    assert [problem for split in ("train", "val") for problem in check_dataset(root, split)] == []
    dataset = PanopticDataset(root, "val")
    assert dataset.unlabelled == "background" and [c["name"] for c in dataset.categories] == ["thing", "background"]
    scene = draw_scene(scene_seed("val", 0), size=64, min_things=3, max_things=7)
    truth = dataset.ground_truth(0)
    assert np.array_equal(truth.image, scene.image)
    things = [truth.ids == segment["id"] for segment in truth.segments if segment["isthing"]]
    assert all(len(np.unique(scene.ids[mask])) == 1 for mask in things) and things


def test_an_interrupted_conversion_is_done_again(run: Path) -> None:
    stage = open_stage(NAME, profile="smoke", run_dir=run, overrides=SMALL)
    root = own_folder(stage)
    before = (root / "panoptic_val.json").read_bytes()
    (root / "panoptic_val.json").unlink()
    assert own_folder(stage) == root and (root / "panoptic_val.json").read_bytes() == before
    assert stage.compute(pytest.fail) == stage.result["metrics"]
    stage.finish()


@pytest.mark.parametrize("name", ["smoke", "demo", "gpu", "paper"])
def test_the_section_replaces_what_small_objects_need_and_leaves_the_rest(name: str) -> None:
    profile = Profile.load(name)
    own = own_profile(profile)
    assert own.evaluation.tile_size == own.data.crop_size == profile.own_dataset.crop_size
    assert own.diffusion.training.steps == profile.own_dataset.diffusion_steps
    assert own.diffusion.training.learning_rate == profile.diffusion.training.learning_rate
    assert own.denoiser == profile.denoiser and sum(own.diffusion.tasks.values()) == pytest.approx(1)


def test_more_classes_than_ids_are_named(tmp_path: Path, smoke_data: Path) -> None:
    few = {"own_dataset.num_ids": 4}
    stage = open_stage(NAME, profile="smoke", data_root=smoke_data, run_dir=tmp_path / "run", overrides=few)
    with pytest.raises(InputError, match=r"classes, which do not fit into 4 ids .* own_dataset.num_ids to"):
        train_and_judge(stage, smoke_data)


def test_a_trained_model_is_gone_on_from_and_its_autoencoder_kept(
    tmp_path: Path, smoke_data: Path, smoke_pipeline
) -> None:
    source = tmp_path / "trained"
    smoke_pipeline.save_pretrained(source)
    ids = smoke_pipeline.autoencoder.config.num_ids
    overrides = {"own_dataset.start": str(source), "own_dataset.num_ids": ids, "own_dataset.diffusion_steps": 1}
    stage = open_stage(NAME, profile="smoke", data_root=smoke_data, run_dir=tmp_path / "run", overrides=overrides)
    metrics = train_and_judge(stage, smoke_data)
    assert metrics["training"]["autoencoder"] is None and str(source) in metrics["weights"]
    assert f"begun from the model {source}, whose autoencoder is kept" in metrics["provenance"]
    made = LDMSegPipeline.from_pretrained(stage.folder / "diffusion" / "pipeline")
    for name, weights in smoke_pipeline.autoencoder.state_dict().items():
        assert torch.equal(weights, made.autoencoder.state_dict()[name]), name
    first, second = (pipeline.denoiser.state_dict() for pipeline in (smoke_pipeline, made))
    moved = [(first[name] - second[name]).abs().max().item() for name in first if first[name].is_floating_point()]
    assert 0 < max(moved) < 0.05, "one step from the given weights, not from random ones"


def test_what_is_corrected_by_hand_is_the_middle_with_ids_that_the_model_knows() -> None:
    ids = np.zeros((6, 8), np.int64)
    ids[1:5, 2:4], ids[1:5, 4], ids[1:4, 5], ids[4, 5], ids[0, 0] = 700, 31, 40, 9, 5
    image = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    found, corrected = central_crop(image, ids, side=4, num_ids=4)
    assert np.array_equal(found, image[1:5, 2:6])
    assert corrected.tolist() == [[1, 1, 2, 3]] * 3 + [[1, 1, 2, 0]]
    assert central_crop(image, ids, side=100, num_ids=4)[1].shape == (6, 8)


def test_a_start_with_other_ids_is_refused_with_the_remedy(tmp_path: Path, smoke_data: Path, smoke_pipeline) -> None:
    smoke_pipeline.save_pretrained(tmp_path / "trained")
    ids = smoke_pipeline.autoencoder.config.num_ids
    overrides = {"own_dataset.start": str(tmp_path / "trained"), "own_dataset.num_ids": 2 * ids}
    stage = open_stage(NAME, profile="smoke", data_root=smoke_data, run_dir=tmp_path / "run", overrides=overrides)
    with pytest.raises(InputError, match=f"has {ids} ids, and own_dataset.num_ids is {2 * ids}; set that to {ids}"):
        train_and_judge(stage, smoke_data)


# scores


@pytest.fixture(scope="module")
def val(smoke_profile, smoke_data: Path) -> PanopticDataset:
    return validation_split(smoke_profile, smoke_data)


SETTINGS = {"seed": 0, "num_inference_steps": 2, "batch_size": 4}


@pytest.mark.parametrize("tile_size", [None, 20])
def test_scores_are_those_of_the_one_evaluation_and_ap_is_ranked(smoke_pipeline, val, tile_size) -> None:
    cleaning = Cleaning(threshold=0.0, min_area=4)
    scores, output = evaluate_instances(
        smoke_pipeline, val, cleaning=cleaning, tile_size=tile_size, progress=False, **SETTINGS
    )
    same, _ = evaluate_segmentation(smoke_pipeline, val, cleanings={"x": cleaning}, tile_size=tile_size, **SETTINGS)
    assert scores["class_agnostic"]["All"] == same["x"]["class_agnostic"]["All"]
    assert scores["panoptic"]["Things"] == same["x"]["panoptic"]["Things"]
    assert len(output) == len(scores["per_image"]) == len(val)
    assert scores["ap"] <= scores["ap50"]


def test_confidence_is_the_largest_softmax_of_each_pixel(smoke_pipeline, val) -> None:
    """So it is at least one over the number of ids, and what a threshold leaves is above it."""
    for group in sample_split(smoke_pipeline, val, progress=False, **SETTINGS):
        output = group.decode(smoke_pipeline, Cleaning(threshold=0.3, min_area=0))
        for ids, confidence in zip(output.instance_ids, confidence_maps(smoke_pipeline, group), strict=True):
            assert confidence.shape == ids.shape and confidence.min() >= 1 / 16 - 1e-6 and confidence.max() <= 1
            assert (confidence[ids > 0] > 0.25).all()


def test_a_segment_s_score_is_its_mean_confidence() -> None:
    ids = np.array([[0, 0, 3], [3, 7, 7]])
    confidence = np.array([[1, 1, 0.5], [0.7, 0.2, 0.4]], np.float32)
    found = scored_segments(ids, confidence)
    assert [segment["id"] for segment in found] == [3, 7]
    assert [segment["score"] for segment in found] == pytest.approx([0.6, 0.3])


def test_real_nuclei_pass_through_the_whole_path(shared_data: Path, tmp_path: Path) -> None:
    few = {"own_dataset.num_images": 2, "own_dataset.autoencoder_steps": 2, "own_dataset.diffusion_steps": 2}
    root = shared_data / "nuclei"
    stage = open_stage(NAME, profile="smoke", data_root=root, run_dir=tmp_path / "run", overrides=few)
    metrics = stage.compute(train_and_judge, own_folder(stage))
    assert metrics["images"] == {"train": 531, "val": 2} and metrics["notes"] == []
    assert metrics["provenance"][0].startswith("Data: nuclei, 531 images for training, 2 held out; crops of 40 px")
    stage.finish()
