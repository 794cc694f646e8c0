"""Step counts: each sampling is done once, and every number is judged on the images that it says."""

import pytest
import torch

from ldmseg_lib.data.splits import validation_split
from ldmseg_lib.experiments.denoising_steps import study as denoising_steps
from ldmseg_lib.experiments.denoising_steps.study import Run, Sampling, evaluate_runs, plan_runs
from ldmseg_lib.experiments.segmentation import ARG_MAX, Cleaning, evaluate_segmentation
from ldmseg_lib.pipeline.output import PanopticOutput

SAMPLING = Sampling(seed=3, batch_size=3)
CLEANING = Cleaning(threshold=0.1, min_area=2)


@pytest.fixture(scope="module")
def dataset(smoke_profile, smoke_data):
    return validation_split(smoke_profile, smoke_data)


def test_what_table_and_frontier_share_is_sampled_once() -> None:
    runs = plan_runs(({"ddim": [1, 2, 5]}, 24), ({"ddim": (2, 3), "unipc": (2,)}, 48))
    assert runs == [
        Run("ddim", 1, (24,)),
        Run("ddim", 2, (24, 48)),
        Run("ddim", 5, (24,)),
        Run("ddim", 3, (48,)),
        Run("unipc", 2, (48,)),
    ]


def test_scores_are_those_of_an_evaluation_of_as_many_images(smoke_pipeline, smoke_profile, smoke_data, dataset):
    rows, _, _ = evaluate_runs(smoke_pipeline, dataset, [Run("unipc", 2, (2, 4))], sampling=SAMPLING, cleaning=CLEANING)
    assert [(row["sampler"], row["steps"], row["images"]) for row in rows] == [("unipc", 2, 2), ("unipc", 2, 4)]
    for row in rows:
        first = validation_split(smoke_profile, smoke_data, max_images=row["images"])
        settings = {"seed": 3, "num_inference_steps": 2, "batch_size": 3, "sampler": "unipc", "round_estimates": False}
        expected = evaluate_segmentation(smoke_pipeline, first, cleanings={"x": CLEANING}, **settings)[0]["x"]
        assert row["class_agnostic"]["All"] == expected["class_agnostic"]["All"]
        assert row["panoptic"]["Stuff"] == expected["panoptic"]["Stuff"] and row["miou"] == expected["miou"]


def test_more_images_than_there_are_is_all_of_them(smoke_pipeline, dataset):
    rows, _, _ = evaluate_runs(
        smoke_pipeline, dataset, [Run("ddim", 1, (50, 100))], sampling=SAMPLING, cleaning=CLEANING
    )
    assert [row["images"] for row in rows] == [4]


def test_shown_samples_are_the_arg_max_of_the_first_images(smoke_pipeline, dataset, tmp_path):
    runs = [Run("ddim", steps, (4,)) for steps in (1, 2)]
    _, outputs, trajectory = evaluate_runs(
        smoke_pipeline, dataset, runs, sampling=SAMPLING, cleaning=CLEANING, shown={("ddim", 2): 2}
    )
    settings = {"seed": 3, "num_inference_steps": 2, "batch_size": 4, "sampler": "ddim", "round_estimates": False}
    expected = evaluate_segmentation(smoke_pipeline, dataset, cleanings={"x": ARG_MAX}, **settings)[1]["x"]
    assert list(outputs) == [("ddim", 2)] and trajectory is None
    assert len(outputs["ddim", 2]) == 2
    outputs["ddim", 2].save_coco(tmp_path / "two.json", tmp_path / "two")
    read = PanopticOutput.load_coco(tmp_path / "two.json", tmp_path / "two")
    assert all((a == b).all() for a, b in zip(read.ids, outputs["ddim", 2].ids))
    assert all((a == b).mean() > 0.99 for a, b in zip(outputs["ddim", 2].ids, expected.instance_ids))


def test_the_followed_run_has_every_step_of_the_images_of_the_table(smoke_pipeline, dataset):
    _, _, trajectory = evaluate_runs(
        smoke_pipeline,
        dataset,
        [Run("ddim", 3, (3, 4)), Run("ddim", 2, (3,))],
        sampling=SAMPLING,
        cleaning=CLEANING,
        followed=("ddim", 3),
    )
    assert trajectory["images"] == 3 and [row["step"] for row in trajectory["steps"]] == [1, 2, 3]
    assert trajectory["steps"][-1]["lasting"] in (None, 1.0)


def test_only_sampling_runs_in_the_given_precision(smoke_pipeline, dataset, monkeypatch: pytest.MonkeyPatch):
    seen = []
    update = denoising_steps.SegmentationScores.update

    def noted(self, *arguments):
        seen.append(torch.is_autocast_enabled("cpu"))
        update(self, *arguments)

    monkeypatch.setattr(denoising_steps.SegmentationScores, "update", noted)
    types = set()
    hook = smoke_pipeline.denoiser.unet.conv_out.register_forward_hook(lambda *a: types.add(a[2].dtype))
    try:
        sampling = Sampling(seed=3, batch_size=2, precision="bf16")
        evaluate_runs(smoke_pipeline, dataset, [Run("ddim", 1, (4,))], sampling=sampling, cleaning=CLEANING)
    finally:
        hook.remove()
    assert types == {torch.bfloat16} and seen == [False] * 4
