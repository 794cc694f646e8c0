"""Consistency distillation: what is compared with what, and what is saved."""

import copy
import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ldmseg_lib.data.panoptic import collate
from ldmseg_lib.data.splits import training_split
from ldmseg_lib.diffusion.schedulers import NoiseSchedule
from ldmseg_lib.pipeline.ldmseg import LDMSegPipeline
from ldmseg_lib.training.consistency import ConsistencyObjective, train_consistency

SETTINGS = ("image_size", "categories", "prediction_type", "threshold", "min_area", "tile_size")


def copied_parts(pipeline: LDMSegPipeline) -> dict:
    """The parts of a pipeline that a training may move and freeze."""
    return {name: copy.deepcopy(part) for name, part in pipeline.components.items()}


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
    def build(teacher=None, student=None, target=None, self_condition=False, **changes) -> ConsistencyObjective:
        settings = dataclasses.replace(profile.consistency, **changes)
        pipeline = LDMSegPipeline(**copied_parts(smoke_pipeline), **{n: smoke_pipeline.config[n] for n in SETTINGS})
        objective = ConsistencyObjective(pipeline, profile.diffusion, settings)
        config = dict(smoke_pipeline.denoiser.config) | {"self_condition": self_condition}
        for place, name, network in (
            (objective.frozen, "teacher", teacher),
            (objective.trained, "denoiser", student),
            (objective.trained, "target", target),
        ):
            if network is not None:
                place[name] = Fixed(SimpleNamespace(**config), *network)
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


def test_no_network_is_fed_an_earlier_estimate_where_none_was_trained_with_it(objective, samples):
    model = objective((0.5,), (0.5,), (0.5,))
    loss_of(model, samples)
    for network in (model.frozen["teacher"], model.trained["denoiser"], model.trained["target"]):
        assert all(not condition.any() for _, condition, _ in network.asked)


def test_a_teacher_trained_with_its_estimates_is_fed_them_along_its_path(objective, samples):
    """As in sampling: zeros where the path begins with noise alone, else an estimate at the same z_t, then the last."""
    model = objective((0.5,), (0.5,), (0.5,), self_condition=True, timesteps=2, teacher_steps=3)
    loss_of(model, samples)
    begin = model.trained["denoiser"].asked[0][2]
    assert set(begin.tolist()) == {999, 499}
    (some, zeros, times), (_, first, start), *later = model.frozen["teacher"].asked
    assert len(some) == (begin == 499).sum() and not zeros.any() and set(times.tolist()) == {499}
    assert torch.equal(start, begin) and len(later) == 2
    assert not first[begin == 999].any() and (first[begin == 499] == 0.5).all()
    assert all((condition == 0.5).all() for _, condition, _ in later)
    for network in (model.trained["denoiser"], model.trained["target"]):
        assert all(not condition.any() for _, condition, _ in network.asked)


def test_checkpointing_is_the_profile_s_and_changes_no_gradient(objective, profile, samples):
    """Of the student alone, the only one with gradients; the teacher is the pipeline's own, not a third copy."""
    gradients = []
    for on in (True, False):
        model = objective(training=dataclasses.replace(profile.consistency.training, gradient_checkpointing=on))
        assert model.trained["denoiser"].unet.is_gradient_checkpointing is on
        batch = collate(samples)
        model(batch, model.normalisers(batch))["loss"].backward()
        gradients.append(model.trained["denoiser"].unet.conv_in.weight.grad)
    torch.testing.assert_close(*gradients)


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


@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_distilling_saves_a_pipeline_that_answers_in_one_step(
    profile, smoke_data, smoke_pipeline, tmp_path, micro_batch_size
):
    """With the paper's settings: p = 1, a frozen time embedding, checkpointing, micro-batches."""
    training = dataclasses.replace(
        profile.consistency.training, gradient_checkpointing=True, micro_batch_size=micro_batch_size
    )
    profile = dataclasses.replace(
        profile,
        consistency=dataclasses.replace(profile.consistency, training=training),
        diffusion=dataclasses.replace(profile.diffusion, self_condition_probability=1.0),
    )
    teacher = LDMSegPipeline(**copied_parts(smoke_pipeline), **{n: smoke_pipeline.config[n] for n in SETTINGS})
    teacher.denoiser.register_to_config(train_time_embedding=False)
    teacher.denoiser.prepare_unet()
    learnable = [p.requires_grad for p in teacher.denoiser.parameters()]
    dataset = training_split(profile, smoke_data)
    student, record = train_consistency(profile, dataset, teacher, tmp_path, seed=0)
    assert record.steps == profile.consistency.training.steps
    before = smoke_pipeline.denoiser.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in teacher.denoiser.state_dict().items())
    assert [p.requires_grad for p in teacher.denoiser.parameters()] == learnable
    after = student.denoiser.unet.time_embedding.state_dict()
    assert all(torch.equal(value, before[f"unet.time_embedding.{name}"]) for name, value in after.items())
    assert not torch.equal(student.denoiser.unet.conv_in.weight, before["unet.conv_in.weight"])
    loaded = LDMSegPipeline.from_pretrained(tmp_path / "pipeline")
    loaded.set_progress_bar_config(disable=True)
    assert loaded.config.sampler == "consistency" and not loaded.denoiser.config.self_condition
    picture = dataset.ground_truth(0).image
    answers = [
        pipe(picture, num_inference_steps=1, generator=torch.Generator().manual_seed(0)) for pipe in (student, loaded)
    ]
    assert (answers[0].ids[0] == answers[1].ids[0]).all() and answers[0].ids[0].shape == picture.shape[:2]
