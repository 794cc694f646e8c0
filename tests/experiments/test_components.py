"""What notebook 07 compares: the paper's rows in the paper's order, and pairs that differ in one thing."""

import dataclasses

import pytest

from ldmseg_lib.core.errors import ProfileError
from ldmseg_lib.core.profiles import Profile, check_profile
from ldmseg_lib.experiments.components.rows import TABLE_S3, Variant, component_rows, variant_profile
from ldmseg_lib.experiments.supplement import supplement

PROFILES = ("smoke", "demo", "gpu", "paper")


def test_table_s3_has_the_supplement_s_rows_in_its_order():
    kinds = {"SD VAE": "image_autoencoder", "ViT-B/14": "vit"}
    paper = supplement("table_s3").to_dict("records")
    assert tuple((kinds[r["image_encoder"]], r["scheduler"].lower(), r["ema"] == "yes") for r in paper) == TABLE_S3


@pytest.mark.parametrize("name", PROFILES)
def test_rows_of_a_group_differ_in_one_thing(name):
    profile = Profile.load(name)
    groups = {}
    for row in component_rows(profile.components):
        changed = variant_profile(profile, row.variant, encoder="weights")
        groups.setdefault(row.group, []).append((changed.data.id_order, dataclasses.asdict(changed.diffusion)))
    assert set(groups) == {"loss of small timesteps", "prediction", "self-conditioning", "order of ids"}
    differing = {
        "loss of small timesteps": {"loss_weight"},
        "prediction": {"prediction_type", "loss_weight"},
        "self-conditioning": {"self_condition_probability"},
        "order of ids": set(),
    }
    for group, members in groups.items():
        (order, settings), *others = members
        assert len(members) >= 2
        for other_order, other in others:
            changed = {key for key in settings if settings[key] != other[key]}
            assert changed and changed <= differing[group] if differing[group] else other_order != order


@pytest.mark.parametrize("name", PROFILES)
def test_the_three_predictions_share_the_paper_s_weight(name):
    rows = [row for row in component_rows(Profile.load(name).components) if row.group == "prediction"]
    weights = {row.variant.diffusion["prediction_type"]: row.variant.diffusion["loss_weight"] for row in rows[:3]}
    assert weights == {"epsilon": "min_snr", "sample": "min_snr", "v_prediction": "min_snr"}


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("variant", [Variant(), Variant("image_autoencoder"), Variant(other_latents=True)])
def test_every_variant_is_a_sound_profile(name, variant):
    profile = Profile.load(name)
    changed = variant_profile(profile, variant, encoder="weights")
    check_profile(changed)
    assert changed.data.image_size == profile.components.image_size
    assert changed.image_encoder.kind == ("vit" if variant.encoder == "vit" else "sd_vae")
    assert not changed.image_encoder.trainable


@pytest.mark.parametrize("name", PROFILES)
def test_the_two_resolutions_of_latents_differ_by_a_factor_of_two(name):
    profile = Profile.load(name)
    depths = {
        len(variant_profile(profile, Variant(other_latents=other), encoder="").autoencoder.channels)
        for other in (False, True)
    }
    assert max(depths) - min(depths) == 1


def test_the_paper_profile_starts_from_published_weights():
    settings = Profile.load("paper").components
    assert settings.image_autoencoder.pretrained == "CompVis/stable-diffusion-v1-4"
    assert settings.vit.pretrained == "facebook/dinov2-base"


def test_settings_out_of_range_are_refused():
    for key, value in (
        ("components.vit.prototypes", 0),
        ("components.self_condition_probability", 1.5),
        ("components.self_condition_probability", 0.0),
        ("components.vit.input_size", 36),
        ("components.image_size", 36),
        ("components.area_edges", [0, 64, 32]),
        ("components.step_counts", [0]),
        ("components.inpainting_rates", [1.0]),
    ):
        with pytest.raises(ProfileError, match=key.rpartition(".")[2]):
            Profile.load("demo", {key: value})
    with pytest.raises(ProfileError, match=r"did you mean 'prototypes'|components\.vit\.prototypes"):
        Profile.load("demo", {"components.vit.prototype": 3})
