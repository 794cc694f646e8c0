"""The `paper` code path overfits real photographs: proof that all parts fit together on COCO itself."""

from pathlib import Path

import pytest

from benchmarks.overfit_photographs import GOAL, STEPS, choose_images, overfit, reduced_profile
from ldmseg_lib.data.check import check_dataset


def test_the_path_runs_on_photographs_from_data_to_score(shared_data: Path, tmp_path: Path) -> None:
    data = choose_images(shared_data / "coco_permissive", tmp_path / "data", 2)
    assert [problem for problem in check_dataset(data, "val") if problem.level == "error"] == []
    profile = reduced_profile(2, {"evaluation.num_inference_steps": 2, "diffusion.training.batch_size": 2})
    assert profile.evaluation.sampler == "ddpm" and profile.data.unlabelled == "void"
    assert profile.data.id_order == "random" and profile.evaluation.min_area == 0
    result = overfit(profile, data, tmp_path)
    assert result["images"] == 2 and 0 <= result["class-agnostic PQ"] <= 100


@pytest.mark.slow
def test_it_overfits_sixteen_photographs(shared_data: Path, tmp_path: Path) -> None:
    data = choose_images(shared_data / "coco_permissive", tmp_path / "data", 16)
    result = overfit(reduced_profile(STEPS), data, tmp_path)
    assert result["class-agnostic PQ"] > GOAL, result
