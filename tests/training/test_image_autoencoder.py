"""The image autoencoder: its loss, what it learns, and files that the image encoder reads."""

import dataclasses

import pytest
import torch

from ldmseg_lib.data.panoptic import collate
from ldmseg_lib.data.splits import training_split
from ldmseg_lib.models.image_encoders import SDVAEImageEncoder, build_image_encoder
from ldmseg_lib.training.image_autoencoder import (
    ImageAutoencoderObjective,
    build_image_autoencoder,
    train_image_autoencoder,
)


@pytest.fixture(scope="module")
def dataset(smoke_profile, smoke_data):
    return training_split(smoke_profile, smoke_data)


@pytest.fixture(scope="module")
def trained(smoke_profile, dataset, tmp_path_factory):
    settings = smoke_profile.components.image_autoencoder
    longer = dataclasses.replace(settings, training=dataclasses.replace(settings.training, steps=30, log_every=5))
    return train_image_autoencoder(longer, dataset, tmp_path_factory.mktemp("vae"), 1)


def test_the_loss_is_squared_error_and_a_share_of_the_divergence(smoke_profile, dataset):
    torch.manual_seed(0)
    model = build_image_autoencoder(smoke_profile.components.image_autoencoder, image_size=32)
    batch = collate([dataset[i] for i in range(3)])
    terms = {}
    for weight in (0.0, 0.5):
        objective = ImageAutoencoderObjective(model, kl_weight=weight)
        terms[weight] = objective(batch, objective.normalisers(batch))
    with torch.no_grad():
        posterior = model.encode(batch["image"] * 2 - 1).latent_dist
    expected = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).sum() / batch["image"].numel()
    assert terms[0.5]["divergence"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert (terms[0.5]["loss"] - terms[0.0]["loss"]).item() == pytest.approx(0.5 * expected.item(), rel=1e-3)
    assert terms[0.0]["loss"].item() == pytest.approx(terms[0.5]["squared_error"].item(), rel=1e-5)


def test_it_learns_to_reproduce_pictures(trained, dataset):
    _, record = trained
    mean = torch.stack([dataset[i]["image"] for i in range(len(dataset))]) * 2 - 1
    spread = (mean - mean.mean((0, 2, 3), keepdim=True)).square().mean().item()
    assert record.final_loss < spread  # better than one colour for all


def test_it_is_saved_as_stable_diffusion_s_folder_with_latents_of_unit_deviation(trained, smoke_profile, dataset):
    folder, _ = trained
    assert {file.name for file in (folder / "vae").iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }
    encoder = dataclasses.replace(smoke_profile.image_encoder, kind="sd_vae", pretrained=str(folder))
    built = build_image_encoder(dataclasses.replace(smoke_profile, image_encoder=encoder)).eval()
    assert isinstance(built, SDVAEImageEncoder) and built.out_channels == 4
    with torch.no_grad():
        features = built(torch.stack([dataset[i]["image"] for i in range(len(dataset))]), (8, 8))
    assert features.std().item() == pytest.approx(1.0, abs=0.02)
