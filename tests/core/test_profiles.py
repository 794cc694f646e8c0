"""Profiles: every mistake in one is named, and nothing else changes what was asked for."""

import dataclasses

import pytest
import yaml

from ldmseg_lib.core import paths
from ldmseg_lib.core.errors import ProfileError
from ldmseg_lib.core.profiles import Profile, parse_overrides

NAMES = ("smoke", "demo", "gpu", "paper")


def written(tmp_path, change, name="smoke") -> str:
    """A profile file: `name`'s values after `change` worked on them."""
    values = yaml.safe_load((paths.PROFILES / f"{name}.yaml").read_text())
    change(values)
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_profile_loads(name):
    profile = Profile.load(name)
    assert profile.name == name


def test_the_paper_profile_says_what_the_supplement_says():
    """Supplement A and B: 512 px, 8 bits, batch 256, 100k steps, EMA 0.999, DDPM, 50 steps, threshold 0.5, 512 px."""
    profile = Profile.load("paper")
    assert (profile.data.image_size, profile.data.num_ids, profile.autoencoder.encoding) == (512, 256, "bits")
    training = profile.diffusion.training
    assert (training.steps, training.batch_size, training.ema_decay) == (100_000, 256, 0.999)
    assert (profile.evaluation.sampler, profile.evaluation.num_inference_steps) == ("ddpm", 50)
    assert (profile.evaluation.threshold, profile.evaluation.min_area) == (0.5, 512)
    assert (profile.diffusion.prediction_type, profile.diffusion.loss_weight) == ("epsilon", "min_snr")


def test_profiles_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Profile.load("smoke").data.num_ids = 3


@pytest.mark.parametrize(
    "overrides",
    [
        {"evaluation.min_area": 7, "data.num_ids": 64},
        "evaluation.min_area=7,data.num_ids=64",
        " evaluation.min_area = 7 , data.num_ids=64, ",
    ],
)
def test_overrides_are_a_mapping_or_text(overrides):
    profile, plain = Profile.load("smoke", overrides), Profile.load("smoke")
    assert (profile.evaluation.min_area, profile.data.num_ids) == (7, 64)
    assert dataclasses.replace(profile, data=plain.data, evaluation=plain.evaluation) == plain


@pytest.mark.parametrize("overrides", [None, {}, ""])
def test_no_overrides_change_nothing(overrides):
    assert Profile.load("smoke", overrides) == Profile.load("smoke")


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("1.0E-3", 1e-3), ("1", 1.0), ("3e2", 300.0), (".5", 0.5), (2, 2.0)]
)
def test_numbers_as_people_write_them(text, value):
    """YAML takes 1e-3, without a dot, for text."""
    for overrides in (f"diffusion.training.learning_rate={text}", {"diffusion.training.learning_rate": text}):
        rate = Profile.load("smoke", overrides).diffusion.training.learning_rate
        assert rate == value and type(rate) is float


def test_lists_and_mappings_in_overrides():
    profile = Profile.load(
        "smoke",
        "autoencoder.channels=[16, 16, 64],diffusion.tasks={instance: 1, semantic: 3},denoiser.attention=[true, false]",
    )
    assert profile.autoencoder.channels == (16, 16, 64)
    assert profile.diffusion.tasks == {"instance": 1.0, "semantic": 3.0}
    assert profile.denoiser.attention == (True, False)


def test_a_task_is_added_by_its_name():
    assert Profile.load("smoke", "diffusion.tasks.depth=0.2").diffusion.tasks["depth"] == 0.2


def test_null_where_the_type_allows_it():
    assert Profile.load("smoke", "diffusion.training.ema_decay=null").diffusion.training.ema_decay is None
    with pytest.raises(ProfileError, match=r"data\.num_ids"):
        Profile.load("smoke", "data.num_ids=null")


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("evaluation.min_aera", "evaluation.min_area"),
        ("data.num_id", "data.num_ids"),
        ("diffusion.training.stepz", "diffusion.training.steps"),
        ("evaluations.threshold", "evaluation.threshold"),
        ("min_area", "evaluation.min_area"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(key, nearest):
    with pytest.raises(ProfileError) as error:
        Profile.load("smoke", {key: 1})
    assert repr(key) in str(error.value) and repr(nearest) in str(error.value)


@pytest.mark.parametrize("key", ["data.num_ids.more", "data", "diffusion.training", "x.y.z", ""])
def test_keys_that_lead_elsewhere_are_refused(key):
    with pytest.raises(ProfileError):
        Profile.load("smoke", {key: 1})


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("data.num_ids=many", "data.num_ids"),
        ("data.num_ids=1.5", "data.num_ids"),
        ("data.num_ids=true", "data.num_ids"),
        ("evaluation.threshold=half", "evaluation.threshold"),
        ("evaluation.threshold=nan", "evaluation.threshold"),
        ("evaluation.threshold=true", "evaluation.threshold"),
        ("evaluation.sampler=dimm", "'ddim' or 'ddpm'"),
        ("image_encoder.trainable=1", "image_encoder.trainable"),
        ("autoencoder.channels=32", "autoencoder.channels"),
        ("autoencoder.channels=[16, wide]", "autoencoder.channels"),
        ("diffusion.tasks=instance", "diffusion.tasks"),
        ("diffusion.tasks={instance: much}", "diffusion.tasks"),
        ("data=5", "'data'"),
    ],
)
def test_a_value_of_another_type_is_named(override, named):
    with pytest.raises(ProfileError) as error:
        Profile.load("smoke", override)
    assert named in str(error.value)


@pytest.mark.parametrize("text", ["evaluation.min_area", "a.b=[1", "a=}{", "a=1,b"])
def test_text_that_is_no_override_is_refused(text):
    with pytest.raises(ProfileError):
        parse_overrides(text)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("data.image_size=30", "data.image_size"),
        ("data.num_ids=1", "data.num_ids"),
        ("autoencoder.training.steps=0", "autoencoder.training.steps"),
        ("diffusion.training.batch_size=-4", "diffusion.training.batch_size"),
        ("evaluation.num_inference_steps=0", "evaluation.num_inference_steps"),
        ("evaluation.threshold=1.5", "evaluation.threshold"),
        ("autoencoder.semantic_fraction=-0.1", "autoencoder.semantic_fraction"),
        ("autoencoder.channels=[16, 20]", "autoencoder.channels"),
        ("autoencoder.channels=[]", "autoencoder.channels"),
        ("autoencoder.num_upscalers=3", "autoencoder.num_upscalers"),
        ("autoencoder.latent_scale=0", "autoencoder.latent_scale"),
        ("autoencoder.latent_std=0", "autoencoder.latent_std"),
        ("diffusion.timestep_power={semantic: 0}", "diffusion.timestep_power"),
        ("diffusion.tasks={}", "diffusion.tasks"),
        ("diffusion.tasks={instance: 0}", "diffusion.tasks"),
        ("denoiser.pretrained=somewhere", "denoiser.channels"),
        ("denoiser.head_dim=null", "denoiser.head_dim"),
        ("denoiser.attention=[true]", "denoiser.attention"),
        ("mask2former.heads=5", "mask2former.channels"),
        ("mask2former.overlap=2", "mask2former.overlap"),
        ("mask2former.mae.pretrained=somewhere", "mask2former.mae.patch_size"),
        ("mask2former.mae.training=null", "mask2former.mae.training"),
        ("mask2former.mae.mask_ratio=1", "mask2former.mae.mask_ratio"),
        ("mask2former.mae.patch_size=12", "mask2former.mae.input_size"),
        ("mask2former.mae.hidden_size=30", "mask2former.mae.hidden_size"),
        ("mask2former.queries=0", "mask2former.queries"),
        ("mask2former.layers=2", "mask2former.layers"),
    ],
)
def test_values_that_cannot_work_are_named_before_anything_runs(override, named):
    with pytest.raises(ProfileError) as error:
        Profile.load("smoke", override)
    assert named in str(error.value)


def test_an_unknown_profile_is_named_with_the_nearest():
    with pytest.raises(ProfileError, match="'dmeo'; did you mean 'demo'"):
        Profile.load("dmeo")
    with pytest.raises(ProfileError, match="demo, gpu, paper, smoke"):
        Profile.load("zzz")


def test_a_profile_of_ones_own_is_a_file(tmp_path):
    path = written(tmp_path, lambda values: values["data"].update(num_ids=32))
    profile = Profile.load(path)
    assert profile.name == "own" and profile.data.num_ids == 32
    assert dataclasses.replace(profile, name="smoke", data=Profile.load("smoke").data) == Profile.load("smoke")


def test_a_missing_key_is_named(tmp_path):
    with pytest.raises(ProfileError, match=r"'evaluation\.threshold' is missing"):
        Profile.load(written(tmp_path, lambda values: values["evaluation"].pop("threshold")))


def test_a_missing_section_is_named(tmp_path):
    with pytest.raises(ProfileError, match="'denoiser' is missing"):
        Profile.load(written(tmp_path, lambda values: values.pop("denoiser")))


def test_an_unknown_key_of_a_file_is_named_with_the_nearest(tmp_path):
    with pytest.raises(ProfileError, match=r"'data\.num_idz'; did you mean 'data\.num_ids'"):
        Profile.load(written(tmp_path, lambda values: values["data"].update(num_idz=3)))


@pytest.mark.parametrize("content", [b"", b"- 1", b"a: [", b"\xff\xfe\xfa", b"just text"])
def test_a_file_that_is_no_profile_is_named(tmp_path, content):
    path = tmp_path / "own.yaml"
    path.write_bytes(content)
    with pytest.raises(ProfileError, match=r"own\.yaml"):
        Profile.load(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ProfileError, match=r"none\.yaml"):
        Profile.load(tmp_path / "none.yaml")


def test_an_override_changes_one_section_where_yaml_shares_them(tmp_path):
    """`training: *training` makes two sections one object in YAML."""
    text = (paths.PROFILES / "smoke.yaml").read_text()
    head, _, tail = text.partition("  training:\n    <<: *training\n")
    rest = tail[tail.index("evaluation:") :]
    path = tmp_path / "shared.yaml"
    path.write_text(f"{head}  training: *training\n{rest}")
    profile = Profile.load(path, "diffusion.training.steps=99")
    assert (profile.diffusion.training.steps, profile.autoencoder.training.steps) == (99, 12)
