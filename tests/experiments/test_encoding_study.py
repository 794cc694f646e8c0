"""The study of encodings compares what it says: one input apart, everything equal."""

import dataclasses

import pytest
import torch

from ldmseg_lib.core.errors import ProfileError
from ldmseg_lib.core.profiles import Profile
from ldmseg_lib.data.splits import training_split
from ldmseg_lib.experiments.encodings.study import (
    NUM_IDS,
    TABLE_S1,
    cropped,
    encoding_profile,
    margin,
    study_encodings,
)
from ldmseg_lib.models.autoencoder import MaskAutoencoder, build_autoencoder

NAMES = ("smoke", "demo", "gpu", "paper")


@pytest.mark.parametrize("name", NAMES)
def test_networks_differ_in_their_first_convolution_and_in_nothing_else(name):
    profile = Profile.load(name)
    with torch.device("meta"):
        networks = [build_autoencoder(encoding_profile(profile, encoding)) for encoding in TABLE_S1]
    assert [network.encoding.num_channels for network in networks] == [8, 3, 8]
    assert all(network.config.num_ids == NUM_IDS == 256 for network in networks)
    shapes = [{key: tuple(value.shape) for key, value in network.state_dict().items()} for network in networks]
    for other in shapes[1:]:
        assert {key for key in shapes[0] if other[key] != shapes[0][key]} <= {"encoder.0.weight"}
        assert other.keys() == shapes[0].keys()


@pytest.mark.parametrize("name", NAMES)
def test_profiles_train_every_encoding_alike(name):
    profile = Profile.load(name)
    first, *others = (encoding_profile(profile, encoding) for encoding in TABLE_S1)
    for other in others:
        same = dataclasses.replace(other.autoencoder, encoding="bits")
        assert dataclasses.replace(other, autoencoder=same) == first
    assert first.autoencoder.training == profile.encodings.training and first.autoencoder.semantic_fraction == 0


def test_the_paper_s_study_uses_the_paper_s_autoencoder():
    profile = Profile.load("paper")
    study, own = encoding_profile(profile, "bits").autoencoder, profile.autoencoder
    assert (study.channels, study.num_upscalers, study.num_points) == (own.channels, own.num_upscalers, own.num_points)
    assert study.training == own.training


def test_crops_are_seen_in_training_alone(smoke_data, tmp_path):
    """The profile of the training has them; the maps that are judged stay whole."""
    settings = {"encodings.seeds": [0], "encodings.palettes": [], "encodings.crop_size": 16}
    profile = Profile.load("smoke", settings)
    data = cropped(encoding_profile(profile, "bits")).data
    assert (data.crop_size, data.image_size) == (16, 16)
    assert encoding_profile(profile, "bits").data.crop_size is None
    assert training_split(cropped(encoding_profile(profile, "bits")), smoke_data)[0]["ids"].shape == (16, 16)
    rows = study_encodings(profile, smoke_data, tmp_path)
    assert [row["encoding"] for row in rows] == [*TABLE_S1]
    with pytest.raises(ProfileError, match=r"crop_size 15 is no multiple of 2"):
        Profile.load("smoke", settings | {"encodings.crop_size": 15})


@pytest.fixture(scope="module")
def study(smoke_data, tmp_path_factory):
    profile = Profile.load("smoke", {"encodings.seeds": [0, 5], "encodings.palettes": ["colors_hue"]})
    folder = tmp_path_factory.mktemp("study")
    return profile, folder, study_encodings(profile, smoke_data, folder, seed=2)


def test_each_encoding_is_trained_once_for_each_seed(study):
    _, folder, rows = study
    names = (*TABLE_S1, "colors_hue")
    assert [(row["encoding"], row["seed"]) for row in rows] == [(name, seed) for seed in (0, 5) for name in names]
    for row in rows:
        assert 0 <= row["pq"] <= 1 and 0 <= row["miou"] <= 1 and row["steps"] == 3
        network = MaskAutoencoder.from_pretrained(folder / f"{row['encoding']}-{row['seed']}" / "autoencoder")
        assert network.config.encoding == row["encoding"] and network.config.num_ids == 256
        assert row["parameters"] == sum(p.numel() for p in network.parameters())


def test_a_finished_study_is_not_trained_again(study, smoke_data, monkeypatch: pytest.MonkeyPatch):
    profile, folder, rows = study
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: pytest.fail("it trains"))
    assert study_encodings(profile, smoke_data, folder, seed=2) == rows


def test_seeds_differ(study):
    _, folder, _ = study
    first, second = (MaskAutoencoder.from_pretrained(folder / f"bits-{seed}" / "autoencoder") for seed in (0, 5))
    assert not torch.equal(first.encoder[0].weight, second.encoder[0].weight)


def test_margin_is_the_smallest_distance_of_two_ids():
    assert margin("bits") == 1
    assert margin("colors") == pytest.approx(1 / 7, rel=1e-4)
    assert margin("colors_grey") == pytest.approx(3**0.5 / 255, rel=1e-3)
    assert 0 < margin("positional") < 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("encodings.seeds=[]", r"encodings\.seeds"),
        ("encodings.seeds=[1, 1]", r"encodings\.seeds"),
        ("encodings.palettes=[bits]", "palettes.0' must be 'colors_cube' or .*, not 'bits'"),
        ("encodings.palettes=[colours_hue]", "colors_hue"),
        ("encodings.channels=[16, 20]", r"encodings\.channels"),
        ("encodings.image_size=31", r"encodings\.image_size"),
        ("encodings.num_upscalers=3", r"encodings\.num_upscalers"),
    ],
)
def test_settings_that_cannot_work_are_named(override, message):
    with pytest.raises(ProfileError, match=message):
        Profile.load("smoke", override)


def test_an_unknown_encoding_names_the_valid_ones():
    with pytest.raises(ProfileError, match=r"'bits' or 'colors' or 'positional' or .*, not 'rgb'"):
        encoding_profile(Profile.load("smoke"), "rgb")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("denoising_steps.counts=[0, 3]", r"denoising_steps\.counts"),
        ("denoising_steps.frontier_counts=[1001]", r"denoising_steps\.frontier_counts"),
        ("denoising_steps.shown_counts=[7]", r"shown_counts has 7"),
        ("denoising_steps.trajectory_steps=7", r"trajectory_steps has 7"),
        ("denoising_steps.samplers=[]", r"denoising_steps\.samplers"),
        ("denoising_steps.samplers=[dimm]", "'ddim' or 'ddpm' or 'dpmsolver"),
        ("denoising_steps.precision=fp8", "'fp32' or 'fp16' or 'bf16'"),
    ],
)
def test_step_settings_that_cannot_work_are_named(override, message):
    with pytest.raises(ProfileError, match=message):
        Profile.load("smoke", override)
