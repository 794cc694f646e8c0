"""Training the depth autoencoder: what its loss counts, and that it learns."""

import dataclasses

import pytest
import torch

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.core.profiles import Profile
from ldmseg_lib.data.panoptic import collate
from ldmseg_lib.data.splits import training_split
from ldmseg_lib.models.autoencoder import MaskAutoencoder, build_autoencoder
from ldmseg_lib.training.depth_autoencoder import DepthAutoencoderObjective, depth_errors_of, train_depth_autoencoder


@pytest.fixture(scope="module")
def dataset(smoke_profile, smoke_data):
    return training_split(smoke_profile, smoke_data, depth=True)


def test_the_loss_is_the_mean_error_over_known_pixels():
    found = torch.tensor([[[0.5, 9.0]], [[1.0, 1.0]]])
    target = torch.tensor([[[-0.5, torch.nan]], [[torch.nan, torch.nan]]])
    assert depth_errors_of(found, target).tolist() == [1.0, 0.0]


def test_loss_and_gradients_do_not_depend_on_micro_batches(smoke_profile, dataset):
    torch.manual_seed(0)
    model = DepthAutoencoderObjective(build_autoencoder(smoke_profile, scalar=True))
    samples, results = [dataset[index, 3] for index in range(6)], []
    for micro in (6, 3, 1):
        model.zero_grad()
        losses = []
        for start in range(0, 6, micro):
            losses.append(model(collate(samples[start : start + micro]), {"images": 6})["loss"])
            losses[-1].backward()
        results.append((sum(losses).item(), [p.grad.clone() for p in model.trained.parameters()]))
    loss, gradients = results[0]
    for found, parts in results[1:]:
        assert found == pytest.approx(loss, rel=1e-4)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(parts, gradients, strict=True))


def test_the_target_is_relative(smoke_profile, dataset):
    """Scale and shift of an image's inverse depth change nothing (MiDaS knows neither)."""
    torch.manual_seed(0)
    model = DepthAutoencoderObjective(build_autoencoder(smoke_profile, scalar=True))
    sample = dataset[0]
    losses = [
        model(collate([sample | {"depth": depth}]), {"images": 1})["loss"].item()
        for depth in (sample["depth"], sample["depth"] * 40 + 2)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_training_lowers_the_loss_and_what_was_saved_is_the_result(smoke_profile, dataset, tmp_path):
    settings = dataclasses.replace(
        smoke_profile.multitask.depth_autoencoder, steps=40, batch_size=8, learning_rate=4e-3, log_every=1
    )
    profile = dataclasses.replace(
        smoke_profile, multitask=dataclasses.replace(smoke_profile.multitask, depth_autoencoder=settings)
    )
    log = []
    autoencoder, record = train_depth_autoencoder(profile, dataset, tmp_path, on_log=lambda e: log.append(e["loss"]))
    assert sum(log[-5:]) < 0.6 * sum(log[:5])
    assert record.steps == 40 and not autoencoder.training
    loaded = MaskAutoencoder.from_pretrained(tmp_path / "autoencoder")
    assert loaded.config.latent_scale == autoencoder.config.latent_scale > 0 and loaded.config.encoding == "scalar"


def test_the_paper_s_latents_have_stable_diffusion_s_scale():
    profile = Profile.load("paper")
    with torch.device("meta"):
        autoencoder = build_autoencoder(profile, scalar=True)
    assert autoencoder.config.latent_scale == profile.autoencoder.latent_scale == 0.18215
    assert sum(p.numel() for p in autoencoder.parameters()) == 1_728_745


def test_a_split_opened_without_depth_names_the_command(smoke_profile, smoke_data, tmp_path):
    with pytest.raises(InputError, match=r"python -m ldmseg_lib\.data\.depth ROOT"):
        train_depth_autoencoder(smoke_profile, training_split(smoke_profile, smoke_data), tmp_path)
