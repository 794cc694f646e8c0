"""Consistency distillation: what is compared with what, and what is saved."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from ldmseg_lib.data.panoptic import collate
from ldmseg_lib.data.splits import training_split
from ldmseg_lib.diffusion.schedulers import NoiseSchedule
from ldmseg_lib.pipeline.ldmseg import LDMSegPipeline
from ldmseg_lib.training.consistency import ConsistencyObjective, train_consistency


class Fixed(nn.Module):
    """Says z_0 = `answer` at every timestep below or at `until`, and 0 above."""

    def __init__(self, config, answer: float, until: int = 999) -> None:
        super().__init__()
        self.config, self.until, self.asked = config, until, []
        self.answer = nn.Parameter(torch.tensor(answer))

    def forward(self, noisy, image_latents, condition, timesteps, tasks):
        self.asked.append((noisy, condition, timesteps))
        return torch.zeros_like(noisy) + self.answer * (timesteps <= self.until)[:, None, None, None]


@pytest.fixture
def profile(smoke_profile):
    return dataclasses.replace(
        smoke_profile, diffusion=dataclasses.replace(smoke_profile.diffusion, prediction_type="sample")
    )


@pytest.fixture
def samples(smoke_profile, smoke_data):
    dataset = training_split(smoke_profile, smoke_data)
    return [dataset[i, 3] for i in range(8)]


@pytest.fixture
def objective(profile, smoke_pipeline):
    def build(teacher=None, student=None, target=None, **changes) -> ConsistencyObjective:
        settings = dataclasses.replace(profile.consistency, **changes)
        objective = ConsistencyObjective(smoke_pipeline, profile.diffusion, settings)
        config = smoke_pipeline.denoiser.config
        for place, name, network in (
            (objective.frozen, "teacher", teacher),
            (objective.trained, "denoiser", student),
            (objective.trained, "target", target),
        ):
            if network is not None:
                place[name] = Fixed(config, *network)
        return objective

    return build


def loss_of(model, samples: list) -> float:
    batch = collate(samples)
    return float(model(batch, model.normalisers(batch))["loss"].detach())


def test_a_student_that_answers_what_the_path_ends_in_has_no_loss(objective, samples):
    """The teacher says 0.5 everywhere: every path ends there, whatever the timestep."""
    assert loss_of(objective((0.5,), (0.5,), (0.5,)), samples) == pytest.approx(0, abs=1e-5)
    assert loss_of(objective((0.5,), (0.1,), (0.5,)), samples) > 0.1


def test_the_end_of_the_grid_is_the_teacher_s_own_estimate(objective, samples):
    """With one timestep in the grid there is nothing but the teacher's path to its end."""
    model = objective((0.5,), (0.5,), (-9.0,), timesteps=1, teacher_steps=3)
    assert loss_of(model, samples) == pytest.approx(0, abs=1e-5)
    assert loss_of(objective((0.5,), (0.5,), (-9.0,), timesteps=2), samples) > 0.1


def test_the_teacher_walks_the_fine_grid_to_where_the_target_is_asked(objective, samples):
    model = objective((0.5,), (0.5,), (0.5,), timesteps=4, teacher_steps=2)
    loss_of(model, samples)
    start = model.trained["denoiser"].asked[0][2]
    first, second = (asked[2] for asked in model.frozen["teacher"].asked)
    end = model.trained["target"].asked[0][2]
    assert set(start.tolist()) <= {999, 749, 499, 249} and len(set(start.tolist())) > 1
    assert torch.equal(first, start) and torch.equal(second, start - 125)
    assert torch.equal(end, (start - 250).clamp(min=0))


def test_the_path_is_ddim_s(objective, samples):
    """From z_t the point at the next timestep has the same noise and the teacher's estimate."""
    model = objective((0.5,), (0.5,), (0.5,), timesteps=4, teacher_steps=1)
    loss_of(model, samples)
    z, _, t = model.trained["denoiser"].asked[0]
    later, _, s = model.trained["target"].asked[0]
    schedule = NoiseSchedule("sample")
    half = torch.full_like(z, 0.5)
    expected = schedule.add_noise(half, schedule.implied_noise(z, half, t), s)
    torch.testing.assert_close(later, expected, rtol=1e-4, atol=1e-4)


def test_the_grid_begins_with_noise_alone(objective, samples):
    """As sampling does: at t = 999 nothing of the truth is left, below it some is."""
    others = [dict(s, ids=s["ids"].flip(0), semantic=s["semantic"].flip(0)) for s in samples]
    for timesteps, same in ((1, True), (4, False)):
        model = objective((0.5,), (0.5,), (0.5,), timesteps=timesteps)
        loss_of(model, samples)
        loss_of(model, others)
        (first, *_), (second, *_) = model.trained["denoiser"].asked
        assert torch.equal(first, second) is same


def test_no_network_is_fed_an_earlier_estimate(objective, samples):
    model = objective((0.5,), (0.5,), (0.5,))
    loss_of(model, samples)
    for network in (model.frozen["teacher"], model.trained["denoiser"], model.trained["target"]):
        assert all(not condition.any() for _, condition, _ in network.asked)


def test_the_target_is_the_running_mean_and_does_not_learn(objective):
    model = objective(student=(1.0,), target=(0.0,), target_decay=0.9)
    for expected in (0.1, 0.19):
        model.after_step()
        assert model.trained["target"].answer.item() == pytest.approx(expected)
    built = objective()
    assert not any(p.requires_grad for p in built.trained["target"].parameters())
    assert "image_encoder" not in built.trained


def test_only_known_cells_count(objective, samples):
    void = [dict(s, ids=torch.zeros_like(s["ids"]), semantic=torch.zeros_like(s["semantic"])) for s in samples]
    assert loss_of(objective((0.5,), (0.1,), (0.1,)), void) == 0


def test_distilling_saves_a_pipeline_that_answers_in_one_step(profile, smoke_data, smoke_pipeline, tmp_path):
    dataset = training_split(profile, smoke_data)
    before = copy.deepcopy(smoke_pipeline.denoiser.state_dict())
    student, record = train_consistency(profile, dataset, smoke_pipeline, tmp_path, seed=0)
    assert record.steps == profile.consistency.training.steps
    assert all(torch.equal(value, before[name]) for name, value in smoke_pipeline.denoiser.state_dict().items())
    loaded = LDMSegPipeline.from_pretrained(tmp_path / "pipeline")
    loaded.set_progress_bar_config(disable=True)
    assert loaded.config.sampler == "consistency" and not loaded.denoiser.config.self_condition
    picture = dataset.ground_truth(0).image
    answers = [
        pipe(picture, num_inference_steps=1, generator=torch.Generator().manual_seed(0)) for pipe in (student, loaded)
    ]
    assert (answers[0].ids[0] == answers[1].ids[0]).all() and answers[0].ids[0].shape == picture.shape[:2]
