"""The `paper` code path overfits real photographs: proof that all parts fit together on COCO itself."""

from pathlib import Path

import pytest

from benchmarks.overfit_photographs import (
    AUTOENCODER_STEPS,
    DIFFUSION_STEPS,
    GOAL,
    choose_images,
    overfit,
    reduced_profile,
)
from ldmseg_lib.data.check import check_dataset


def test_the_path_runs_on_photographs_from_data_to_score(shared_data: Path, tmp_path: Path) -> None:
    data = choose_images(shared_data / "coco_permissive", tmp_path / "data", 2)
    assert [problem for problem in check_dataset(data, "val") if problem.level == "error"] == []
    few = {
        "evaluation.num_inference_steps": 2,
        "diffusion.training.batch_size": 2,
        "autoencoder.training.batch_size": 2,
    }
    profile = reduced_profile(autoencoder_steps=2, diffusion_steps=2, **few)
    assert profile.evaluation.sampler == "ddpm" and profile.data.unlabelled == "void"
    assert profile.data.num_ids == 16 and profile.diffusion.self_condition_probability == 1.0
    result = overfit(profile, data, tmp_path)
    assert result["images"] == 2 and 0 <= result["class-agnostic PQ"] <= 100


@pytest.mark.slow
def test_it_overfits_sixteen_photographs(shared_data: Path, tmp_path: Path) -> None:
    data = choose_images(shared_data / "coco_permissive", tmp_path / "data", 16)
    profile = reduced_profile(autoencoder_steps=AUTOENCODER_STEPS, diffusion_steps=DIFFUSION_STEPS)
    result = overfit(profile, data, tmp_path)
    assert result["class-agnostic PQ"] > GOAL, result
