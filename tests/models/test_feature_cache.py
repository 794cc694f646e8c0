"""Features of frozen encoders are computed once for each look of an image, and are the same."""

import copy
import dataclasses

import pytest
import torch

from ldmseg_lib.data.panoptic import collate
from ldmseg_lib.data.splits import training_split, validation_split
from ldmseg_lib.models.denoiser import build_denoiser
from ldmseg_lib.models.feature_cache import FeatureCache, cache_that_pays
from ldmseg_lib.models.image_encoders import SDVAEImageEncoder, SmallImageEncoder, ViTImageEncoder
from ldmseg_lib.training.diffusion import DiffusionObjective

VAE = {
    "block_out_channels": [16],
    "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "latent_channels": 4,
}
VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}


@pytest.fixture(scope="module")
def dataset(smoke_profile, smoke_data):
    return training_split(smoke_profile, smoke_data)


@pytest.fixture(scope="module")
def encoders() -> dict:
    torch.manual_seed(0)
    return {
        "sd_vae": SDVAEImageEncoder(vae_config=VAE).eval(),
        "vit": ViTImageEncoder(backbone_config=VIT, out_channels=5, input_size=28).eval(),
    }


@pytest.mark.parametrize("kind", ["sd_vae", "vit"])
def test_kept_features_are_those_of_the_encoder(encoders, dataset, kind):
    encoder, cache = encoders[kind], FeatureCache()
    for visit in range(4):
        batch = collate([dataset[i, visit] for i in (0, 3, 5)])
        with torch.no_grad():
            kept = encoder.project(cache(encoder, batch), (8, 8))
            assert torch.allclose(kept, encoder(batch["image"], (8, 8)), atol=1e-5)
    assert len(cache) <= 6


def test_an_image_and_its_mirror_image_are_two_looks_each_computed_once(encoders, dataset, monkeypatch):
    encoder, cache, seen = encoders["sd_vae"], FeatureCache(), []
    plain = encoder.features
    monkeypatch.setattr(encoder, "features", lambda images: seen.append(len(images)) or plain(images))
    for visit in range(12):
        cache(encoder, collate([dataset[0, visit], dataset[1, visit]]))
    assert sum(seen) == len(cache) == 4


def test_training_is_the_same_with_kept_features(encoders, dataset, smoke_profile, smoke_run):
    batch = collate([dataset[i, 2] for i in range(4)])
    losses = []
    for features in (None, FeatureCache()):
        torch.manual_seed(0)
        objective = DiffusionObjective(
            build_denoiser(smoke_profile, image_channels=5),
            copy.deepcopy(encoders["vit"]),
            {"mask": smoke_run.autoencoder},
            smoke_profile.diffusion,
            features=features,
        )
        loss = objective(batch, objective.normalisers(batch))["loss"]
        loss.backward()
        losses.append((loss.item(), objective.trained["image_encoder"].projection.weight.grad.clone()))
    (plain, plain_gradient), (kept, kept_gradient) = losses
    assert kept == pytest.approx(plain, rel=1e-4)
    assert torch.allclose(kept_gradient, plain_gradient, atol=1e-5) and plain_gradient.abs().sum() > 0


def test_copies_of_a_training_share_their_cache():
    cache = FeatureCache()
    assert copy.deepcopy({"cache": cache})["cache"] is cache


def test_it_is_made_only_where_it_pays(encoders, dataset, smoke_profile, smoke_data):
    encoder, looks = encoders["sd_vae"], 2 * len(dataset)
    assert cache_that_pays(encoder, dataset, visits=looks + 1) is not None
    assert cache_that_pays(encoder, dataset, visits=looks) is None
    bytes_of_one = 4 * 4 * 32 * 32
    assert cache_that_pays(encoder, dataset, visits=10**6, limit=looks * bytes_of_one) is not None
    assert cache_that_pays(encoder, dataset, visits=10**6, limit=looks * bytes_of_one - 1) is None
    learning = ViTImageEncoder(backbone_config=VIT, input_size=28, train_backbone=True)
    for other in (SmallImageEncoder(channels=(8,)), learning):
        assert cache_that_pays(other, dataset, visits=10**6) is None
    crops = dataclasses.replace(smoke_profile, data=dataclasses.replace(smoke_profile.data, crop_size=16))
    assert cache_that_pays(encoder, training_split(crops, smoke_data), visits=10**6) is None
    unmirrored = validation_split(smoke_profile, smoke_data)
    assert cache_that_pays(encoder, unmirrored, visits=len(unmirrored) + 1) is not None
