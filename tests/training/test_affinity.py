"""Affinity pooling in training: learned beforehand and along, added to a model that lacks it, resumed and saved."""

import dataclasses
import json

import pytest
import torch

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.data.panoptic import collate
from ldmseg_lib.data.splits import training_split
from ldmseg_lib.models.affinity import AffinityPooling
from ldmseg_lib.models.image_encoders import build_image_encoder
from ldmseg_lib.pipeline.ldmseg import LDMSegPipeline
from ldmseg_lib.training.affinity import AffinityObjective, affinity_error
from ldmseg_lib.training.diffusion import train_diffusion
from ldmseg_lib.training.objective import ImageObjective


@pytest.fixture(scope="module")
def profile(smoke_profile):
    """The smoke profile with affinity pooling that is trained for four steps beforehand."""
    diffusion = smoke_profile.diffusion
    before = dataclasses.replace(diffusion.training, steps=4, optimizer="muon", ema_decay=None)
    return dataclasses.replace(
        smoke_profile,
        denoiser=dataclasses.replace(smoke_profile.denoiser, affinity_channels=4),
        diffusion=dataclasses.replace(diffusion, affinity_pretraining=before),
    )


@pytest.fixture(scope="module")
def dataset(profile, smoke_data):
    return training_split(profile, smoke_data)


@pytest.fixture(scope="module")
def trained(profile, dataset, smoke_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("affinity")
    pipeline, record = train_diffusion(profile, dataset, {"mask": smoke_run.autoencoder}, folder)
    return folder, pipeline, record


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_is_trained_beforehand_and_along(trained, profile):
    folder, pipeline, record = trained
    before, along = lines(folder / "affinity" / "metrics.jsonl"), lines(folder / "metrics.jsonl")
    assert [entry["step"] for entry in before][-1] == 4 and along[-1]["step"] == profile.diffusion.training.steps
    for entry in along:
        weight = profile.diffusion.affinity_weight
        assert entry["loss"] == pytest.approx(entry["denoising"] + weight * entry["affinity"], abs=1e-4)
    assert record.steps == profile.diffusion.training.steps and pipeline.denoiser.config.affinity_channels == 4


def test_the_pipeline_has_it_again_when_loaded(trained, smoke_data):
    folder, pipeline, _ = trained
    loaded = LDMSegPipeline.from_pretrained(folder / "pipeline")
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    features = loaded.encode_image(image)
    assert features.affinity is not None and features.take([0, 0]).affinity.shape[0] == 2
    found, expected = (
        model(image, num_inference_steps=2, generator=torch.Generator().manual_seed(1)) for model in (loaded, pipeline)
    )
    assert (found.ids[0] == expected.ids[0]).all()


def test_a_finished_training_is_not_done_again(trained, profile, dataset, smoke_run):
    folder, pipeline, record = trained
    again, second = train_diffusion(profile, dataset, {"mask": smoke_run.autoencoder}, folder)
    weights = pipeline.denoiser.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in again.denoiser.state_dict().items())
    assert second.seconds == pytest.approx(record.seconds)


def test_a_model_without_it_gets_it_and_one_of_another_width_is_refused(profile, dataset, smoke_run, trained, tmp_path):
    without = dataclasses.replace(profile, denoiser=dataclasses.replace(profile.denoiser, affinity_channels=None))
    plain, _ = train_diffusion(without, dataset, {"mask": smoke_run.autoencoder}, tmp_path / "plain")
    assert plain.denoiser.affinity is None
    grown, _ = train_diffusion(profile, dataset, {"mask": smoke_run.autoencoder}, tmp_path / "grown", start=plain)
    assert grown.denoiser.config.affinity_channels == 4 and (tmp_path / "grown" / "affinity").is_dir()
    _, pipeline, _ = trained
    further, _ = train_diffusion(
        profile, dataset, {"mask": smoke_run.autoencoder}, tmp_path / "further", start=pipeline
    )
    assert further.denoiser.config.affinity_channels == 4 and not (tmp_path / "further" / "affinity").exists()
    wider = dataclasses.replace(profile, denoiser=dataclasses.replace(profile.denoiser, affinity_channels=8))
    with pytest.raises(InputError, match=r"affinity_channels is 8; set it to 4"):
        train_diffusion(wider, dataset, {"mask": smoke_run.autoencoder}, tmp_path / "wider", start=pipeline)


def test_the_error_is_that_of_known_cells_whatever_the_batch(profile, dataset, smoke_run):
    torch.manual_seed(0)
    pooling = AffinityPooling(8, 4)
    encoder = build_image_encoder(profile)
    samples = [dataset[i, 3] for i in range(4)]

    def errors(chosen: list) -> torch.Tensor:
        batch = collate(chosen)
        affinity = pooling(encoder(batch["image"], (8, 8)))
        generators = ImageObjective({}, seed=0).generators(batch, "affinity")
        return affinity_error(pooling, affinity, smoke_run.autoencoder, batch, generators=generators)

    whole = errors(samples)
    assert whole.shape == (4,) and (whole > 0).all()
    assert torch.allclose(torch.cat([errors(samples[:2]), errors(samples[2:])]), whole, atol=1e-5)
    for sample in samples:
        sample["ids"] = torch.zeros_like(sample["ids"])
    assert (errors(samples) == 0).all()


def test_only_what_is_trainable_learns(profile, dataset, smoke_run):
    encoder = build_image_encoder(profile)
    encoder.trainable = False
    objective = AffinityObjective(AffinityPooling(8, 4), encoder, smoke_run.autoencoder, seed=0)
    batch = collate([dataset[i, 0] for i in range(2)])
    objective(batch, objective.normalisers(batch))["loss"].backward()
    assert all(p.grad is not None for p in objective.trained.parameters())
    assert all(p.grad is None for p in objective.frozen.parameters())
