"""The benchmarks that train, at smoke size."""

import dataclasses
import shutil

import pytest

from benchmarks.few_step_trials import TRIALS, try_out
from benchmarks.training_speed import PARTS, WARM_UP, measure
from ldmseg_lib.core.errors import InputError
from ldmseg_lib.core.profiles import Profile
from ldmseg_lib.data.splits import training_split
from ldmseg_lib.training.autoencoder import AutoencoderObjective, train_autoencoder


@pytest.fixture
def training(smoke_profile, smoke_data, tmp_path):
    """A function of a number of steps that trains so many of the autoencoder's."""

    def train(steps: int) -> None:
        short = dataclasses.replace(smoke_profile.autoencoder.training, steps=steps)
        profile = dataclasses.replace(
            smoke_profile, autoencoder=dataclasses.replace(smoke_profile.autoencoder, training=short)
        )
        train_autoencoder(profile, training_split(profile, smoke_data), tmp_path / str(steps))

    return train


def test_every_part_of_a_step_is_timed_and_nothing_else_stays_changed(training):
    forward = AutoencoderObjective.forward
    found = measure(AutoencoderObjective, lambda: training(WARM_UP + 4), batch=4)
    assert tuple(found["share of a step"]) == PARTS and found["steps"] == 3
    assert all(share >= 0 for share in found["share of a step"].values())
    assert sum(found["share of a step"].values()) == pytest.approx(1, abs=0.01)
    assert found["images a second"] == pytest.approx(4 / found["seconds a step"], rel=0.05)
    assert AutoencoderObjective.forward is forward
    with pytest.raises(InputError, match="more steps"):
        measure(AutoencoderObjective, lambda: training(WARM_UP), batch=4)


@pytest.mark.parametrize("changes", TRIALS.values(), ids=TRIALS)
def test_a_trial_is_judged_at_its_own_numbers_of_steps(changes, smoke_run, smoke_data, smoke_overrides, tmp_path):
    shutil.copytree(smoke_data, tmp_path / "01_dataset" / "data")
    shutil.copytree(smoke_run.folder / "diffusion" / "pipeline", tmp_path / "04_diffusion" / "pipeline")
    settings = {f"consistency.{key}": value for key, value in changes.items()} | {"consistency.training.steps": 2}
    profile = Profile.load("smoke", smoke_overrides | settings)
    found = try_out(tmp_path, profile)
    assert tuple(map(int, found["scores"])) == profile.consistency.counts
    assert found["steps"] == 2 and found["images"] == 4
