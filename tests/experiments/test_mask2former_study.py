"""The study of notebook 09: where features come from, what is measured, which images are shown."""

import dataclasses

import numpy as np
import pytest

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.data.splits import validation_split
from ldmseg_lib.experiments.mask2former.judging import seconds_per_image
from ldmseg_lib.experiments.mask2former.study import BACKBONES, Mask2FormerStudy, load_predictions, most_different
from ldmseg_lib.experiments.mask2former_full_size import random_mask2former
from ldmseg_lib.pipeline.output import PanopticOutput
from ldmseg_lib.pipeline.query_segmentation import segment_images
from tests.models.tiny_mask2former import tiny_backbone


@pytest.fixture(scope="module")
def profile(smoke_profile):
    settings = smoke_profile.mask2former
    training = dataclasses.replace(settings.training, steps=3)
    mae = dataclasses.replace(settings.mae, training=training)
    return dataclasses.replace(smoke_profile, mask2former=dataclasses.replace(settings, training=training, mae=mae))


@pytest.fixture(scope="module")
def study(profile, smoke_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    tiny_backbone("dinov2").save_pretrained(folder / "vit")
    return Mask2FormerStudy(profile, smoke_data, folder / "study", self_distilled=folder / "vit")


@pytest.fixture(scope="module")
def judged(study):
    for name in BACKBONES:
        study.train(name)
    return {name: study.judge(name, repeats=1) for name in BACKBONES}


def test_models_differ_in_their_features_alone(study, judged):
    kinds = [study._models[name].config.backbone_kind for name in BACKBONES]
    assert kinds == ["mae", "dinov2"]
    assert judged["MAE"]["pretraining"]["steps"] == 3 and judged["self-distilled"]["pretraining"] is None
    for name, result in judged.items():
        assert result["name"] == name and result["training"]["steps"] == 3 and result["seconds_per_image"] > 0
        assert result["parameters"] == sum(p.numel() for p in study._models[name].parameters())


def test_predictions_on_disk_are_those_that_were_judged(study, judged):
    for name in judged:
        output = load_predictions(study.folder_of(name))
        truths = [study.val_set.ground_truth(index).image for index in range(len(study.val_set))]
        again = segment_images(study._models[name], truths)
        for saved, ids in zip(output.ids, again.ids, strict=True):
            assert np.array_equal(saved, ids)


def test_the_pipeline_is_timed_on_the_same_images(study, smoke_pipeline):
    found = study.measure_pipeline(smoke_pipeline, repeats=1)
    networks = (smoke_pipeline.denoiser, smoke_pipeline.image_encoder, smoke_pipeline.autoencoder)
    assert found["parameters"] == sum(p.numel() for network in networks for p in network.parameters())
    assert found["seconds_per_image"] > 0
    assert found["num_inference_steps"] == study.profile.evaluation.num_inference_steps


def test_what_is_not_there_is_named(profile, smoke_data, tmp_path):
    study = Mask2FormerStudy(profile, smoke_data, tmp_path)
    with pytest.raises(InputError, match="run notebook 07"):
        study.train("self-distilled")
    with pytest.raises(InputError, match="'MAE' or 'self-distilled', not 'swin'"):
        study.train("swin")
    with pytest.raises(InputError, match="MAE features is not trained"):
        study.judge("MAE")
    study.self_distilled = tmp_path / "nowhere"
    with pytest.raises(InputError, match="nowhere"):
        study.train("self-distilled")


def test_the_images_shown_are_those_where_one_model_is_right_and_the_other_wrong(profile, smoke_data):
    dataset = validation_split(profile, smoke_data)
    truths = [dataset.ground_truth(index) for index in range(4)]
    nothing = np.zeros_like(truths[0].ids)

    def right_on(indices: set[int]) -> PanopticOutput:
        return PanopticOutput(
            ids=[truth.ids if i in indices else nothing for i, truth in enumerate(truths)],
            segments=[truth.segments if i in indices else [] for i, truth in enumerate(truths)],
        )

    first, second = right_on({0, 1, 3}), right_on({0, 1, 2})
    assert most_different(dataset, first, second, count=2) == [3, 2]
    assert most_different(dataset, first, second, count=9) in ([3, 0, 1, 2], [3, 1, 0, 2])


def test_seconds_are_those_of_one_image_without_the_warm_up():
    calls = []
    seconds = seconds_per_image(calls.append, ["a", "b"], device="cpu", repeats=3, warmups=1)
    assert calls == [["a"], ["b"]] * 4 and 0 <= seconds < 1
    with pytest.raises(InputError, match="at least one image"):
        seconds_per_image(calls.append, [], device="cpu")


def test_the_full_size_benchmark_runs_on_a_tiny_network():
    model = random_mask2former("mae", tiny=True)
    image = np.zeros((64, 64, 3), np.uint8)
    assert segment_images(model, [image]).ids[0].shape == (64, 64)
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    full = random_mask2former("dinov2", device="meta")
    assert 90e6 < sum(p.numel() for p in full.parameters()) < 120e6
    with pytest.raises(InputError, match="'swin'; valid ones are mae, dinov2"):
        random_mask2former("swin")
