"""Training the diffusion model: what is drawn, what the loss is, and what is saved."""

import copy
import dataclasses

import pytest
import torch
from diffusers.training_utils import EMAModel
from torch import nn

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.data.panoptic import collate
from ldmseg_lib.data.splits import training_split
from ldmseg_lib.diffusion.schedulers import NoiseSchedule
from ldmseg_lib.diffusion.tasks import known_cells
from ldmseg_lib.models.denoiser import build_denoiser
from ldmseg_lib.models.image_encoders import build_image_encoder
from ldmseg_lib.pipeline.ldmseg import LDMSegPipeline
from ldmseg_lib.training.diffusion import DiffusionObjective, averaged, draw_timestep, train_diffusion


class Answering(nn.Module):
    """Predicts a constant for every latent, and keeps what it was asked."""

    affinity = None

    def __init__(self, config, answer: float = 0.0) -> None:
        super().__init__()
        self.config, self.answer, self.asked = config, nn.Parameter(torch.tensor(answer)), []

    def forward(self, noisy, image_latents, condition, timesteps, tasks, affinity):
        self.asked.append((noisy, image_latents, condition, timesteps, tasks))
        return torch.zeros_like(noisy) + self.answer


@pytest.fixture(scope="module")
def samples(smoke_profile, smoke_data):
    dataset = training_split(smoke_profile, smoke_data)
    return [dataset[i, 5] for i in range(8)]


@pytest.fixture
def build(smoke_profile, smoke_run):
    """Builds objectives; keyword arguments change the profile's diffusion settings."""

    def build(denoiser=None, **changes) -> DiffusionObjective:
        torch.manual_seed(0)
        settings = dataclasses.replace(smoke_profile.diffusion, **changes)
        return DiffusionObjective(
            denoiser or build_denoiser(smoke_profile),
            build_image_encoder(smoke_profile),
            {"mask": smoke_run.autoencoder},
            settings,
        )

    return build


def loss_of(model, samples: list) -> torch.Tensor:
    batch = collate(samples)
    return model(batch, model.normalisers(batch))["loss"]


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("weighting", ["none", "min_snr", "x0"])
def test_the_loss_is_that_of_the_method(build, samples, smoke_run, prediction_type, weighting):
    """Method 3.3 and 3.4, recomputed from what the network was asked: w (target - answer)^2, void cells as 0."""
    spy = Answering(build_config(smoke_run), answer=0.25)
    model = build(
        spy, prediction_type=prediction_type, loss_weight=weighting, tasks={"semantic": 1.0},
        self_condition_probability=0.0,
    )  # fmt: skip
    sample = dict(samples[0], semantic=samples[0]["semantic"].clone())
    sample["semantic"][:16] = 0
    loss = loss_of(model, [sample])
    noisy, _, _, t, _ = spy.asked[0]
    schedule = NoiseSchedule(prediction_type)
    semantic = sample["semantic"][None]
    with torch.no_grad():
        clean = smoke_run.autoencoder.to_latents(semantic)
    level = schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
    noise = (noisy - level.sqrt() * clean) / (1 - level).sqrt()
    known = known_cells(semantic, smoke_run.autoencoder.factor)
    assert 0.3 < known.mean() <= 0.5
    weight = schedule.loss_weight(t, weighting=weighting)
    expected = weight * (known * (schedule.target(clean, noise, t) - 0.25).square()).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)


def build_config(smoke_run):
    return smoke_run.pipeline.denoiser.config


def test_what_is_drawn_depends_on_image_and_visit_alone(build, samples, smoke_run):
    def asked(rows, **changes):
        spy = Answering(build_config(smoke_run))
        loss_of(build(spy, self_condition_probability=0.0, **changes), [samples[row] for row in rows])
        return list(zip(*spy.asked[0]))

    together, other = asked(range(8)), asked([6, 1])
    for row, values in zip((6, 1), other):
        for found, expected in zip(values, together[row]):
            assert torch.allclose(found, expected, atol=1e-5)
    assert len({int(values[3]) for values in together}) > 1
    assert {int(values[4]) for values in together} == {0, 1}


def test_tasks_and_timesteps_are_drawn_as_they_should(build, samples):
    model = build(tasks={"instance": 0.75, "semantic": 0.25})
    batch = {"image_id": list(range(2000)), "visit": [0] * 2000}
    tasks, timesteps, chosen, noise = model._draws(batch, (1, 2, 2))
    assert (tasks == 0).float().mean().item() == pytest.approx(0.75, abs=0.04)
    assert timesteps.min() >= 0 and timesteps.max() <= 999
    counts = torch.histc(timesteps.float(), 4, 0, 1000) / 2000
    assert torch.allclose(counts, torch.full((4,), 0.25), atol=0.04)
    assert chosen.float().mean().item() == pytest.approx(0.5, abs=0.04)
    assert noise.std().item() == pytest.approx(1, abs=0.03) and noise.mean().item() == pytest.approx(0, abs=0.03)


def test_each_sample_has_the_latents_of_its_own_task(build, samples, smoke_run):
    model = build()
    batch = collate(samples)
    tasks = torch.tensor([0, 1] * 4)
    latents, known = model._targets(batch, tasks)
    factor = smoke_run.autoencoder.factor
    for row, task in enumerate(("ids", "semantic") * 4):
        target = batch[task][row : row + 1]
        with torch.no_grad():
            assert torch.allclose(latents[row], smoke_run.autoencoder.to_latents(target)[0], atol=1e-5)
        assert torch.equal(known[row], known_cells(target, factor)[0])


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_self_conditioning_shows_an_estimate_to_its_share_of_samples(build, samples, smoke_run, probability):
    """A first pass without gradient and with a zero condition; the second sees the estimate of the first."""
    spy = Answering(build_config(smoke_run), answer=0.5)
    model = build(spy, self_condition_probability=probability, prediction_type="sample")
    loss_of(model, samples).backward()
    *first, (_, _, condition, _, _) = spy.asked
    told = (condition == 0.5).flatten(1).all(1)
    assert ((condition == 0).flatten(1).all(1) == ~told).all()
    assert told.sum().item() in {0.0: [0], 1.0: [8], 0.5: range(1, 8)}[probability]
    assert len(first) == (probability > 0)
    assert all((c == 0).all() for _, _, c, _, _ in first)


def test_self_conditioning_stops_the_gradient(build, samples):
    """Method 3.3: the estimate is detached; the image encoder learns through the second pass alone."""
    model = build(self_condition_probability=1.0)
    loss_of(model, samples[:2]).backward()
    learned = [p for p in model.trained.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learned)


def test_loss_and_gradients_do_not_depend_on_micro_batches(build, samples):
    model = build()
    results = []
    for micro in (8, 4, 2, 1):
        model.zero_grad()
        losses = []
        for start in range(0, 8, micro):
            losses.append(model(collate(samples[start : start + micro]), {"images": 8})["loss"])
            losses[-1].backward()
        results.append((sum(losses).item(), [p.grad.clone() for p in model.trained.parameters() if p.requires_grad]))
    loss, gradients = results[0]
    assert loss > 0
    for found, parts in results[1:]:
        assert found == pytest.approx(loss, rel=1e-4)
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(parts, gradients))


def test_a_batch_of_void_has_no_loss_and_disturbs_nothing(build, samples):
    model = build()
    sample = samples[0] | {key: torch.zeros_like(samples[0][key]) for key in ("ids", "semantic")}
    loss = loss_of(model, [sample])
    loss.backward()
    assert loss.item() == 0
    assert all((p.grad == 0).all() for p in model.trained.parameters() if p.grad is not None)


def test_the_autoencoder_stays_as_it_is(build, samples):
    model = build()
    before = {name: value.clone() for name, value in model.frozen.state_dict().items()}
    model.train()
    assert model.trained.training and not any(module.training for module in model.frozen.modules())
    loss_of(model, samples[:2]).backward()
    assert not any(p.requires_grad or p.grad is not None for p in model.frozen.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.frozen.state_dict().items())


def test_a_task_without_its_autoencoder_is_named(build):
    with pytest.raises(InputError, match="'depth' has no autoencoder"):
        build(tasks={"instance": 0.5, "depth": 0.5})


def test_both_pipelines_are_saved_and_differ_by_the_average(smoke_run):
    folder = smoke_run.folder / "diffusion"
    mean, last = (LDMSegPipeline.from_pretrained(folder / name) for name in ("pipeline", "pipeline_last"))
    expected = smoke_run.pipeline.denoiser.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in mean.denoiser.state_dict().items())
    pairs = zip(mean.denoiser.parameters(), last.denoiser.parameters())
    differ = [not torch.equal(a, b) for a, b in pairs if a.requires_grad]
    assert sum(differ) > 0.9 * len(differ)
    differ = [not torch.equal(a, b) for a, b in zip(mean.image_encoder.parameters(), last.image_encoder.parameters())]
    assert all(differ)
    assert all(torch.equal(a, b) for a, b in zip(mean.autoencoder.parameters(), last.autoencoder.parameters()))


def test_the_average_is_a_copy(build):
    model = build()
    parameters = [p for p in model.trained.parameters() if p.requires_grad]
    ema = EMAModel(parameters, decay=0.9)
    before = [p.clone() for p in parameters]
    with torch.no_grad():
        for parameter in parameters:
            parameter += 1
    twin = averaged(model, ema)
    averages = [p for p in twin.trained.parameters() if p.requires_grad]
    assert all(torch.equal(a, b) for a, b in zip(averages, before, strict=True))
    assert all(torch.equal(a, b + 1) for a, b in zip(parameters, before, strict=True))


def test_the_pipeline_knows_how_it_was_trained(smoke_run, smoke_profile):
    config = smoke_run.pipeline.config
    assert config.prediction_type == smoke_profile.diffusion.prediction_type
    assert config.image_size == smoke_profile.data.image_size
    assert (config.threshold, config.min_area) == (
        smoke_profile.evaluation.threshold,
        smoke_profile.evaluation.min_area,
    )
    assert [c["id"] for c in config.categories] == [c["id"] for c in smoke_run.dataset.categories]
    assert not any(module.training for module in smoke_run.pipeline.denoiser.modules())


def test_training_without_average_saves_one_pipeline(smoke_profile, smoke_run, tmp_path):
    training = dataclasses.replace(smoke_profile.diffusion.training, steps=1, warmup_steps=0, ema_decay=None)
    profile = dataclasses.replace(
        smoke_profile, diffusion=dataclasses.replace(smoke_profile.diffusion, training=training)
    )
    train_diffusion(profile, smoke_run.dataset, {"mask": smoke_run.autoencoder}, tmp_path)
    assert (tmp_path / "pipeline").is_dir() and not (tmp_path / "pipeline_last").exists()


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_a_start_that_never_saw_its_estimates_is_shown_them_if_it_now_learns_to(
    smoke_profile, smoke_run, tmp_path, probability
):
    start = LDMSegPipeline.from_pretrained(smoke_run.folder / "diffusion" / "pipeline")
    start.denoiser.register_to_config(self_condition=False)
    training = dataclasses.replace(smoke_profile.diffusion.training, steps=1, warmup_steps=0, ema_decay=None)
    diffusion = dataclasses.replace(smoke_profile.diffusion, training=training, self_condition_probability=probability)
    profile = dataclasses.replace(smoke_profile, diffusion=diffusion)
    trained, _ = train_diffusion(
        profile, smoke_run.dataset, {"mask": start.autoencoder}, tmp_path / "trained", start=start
    )
    assert trained.denoiser.config.self_condition == (probability > 0)
    assert not start.denoiser.config.self_condition


@pytest.mark.parametrize(("power", "median"), [(1.0, 500), (3.0, 875), (0.5, 293)])
def test_timesteps_are_bent_to_the_noisy_or_the_clear_end(power, median):
    """The median of 1000 (1 - (1 - u)^p) is that of u = 1/2; both ends are reached."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([draw_timestep(power, generator) for _ in range(20000)])
    assert float(drawn.median()) == pytest.approx(median, abs=12)
    assert drawn.min() < 5 and drawn.max() > 990 and drawn.max() <= 999


def test_only_the_named_task_has_its_timesteps_bent(build, samples):
    batch = collate(samples)
    shape = (4, 8, 8)
    plain = build()._draws(batch, shape)
    bent = build(timestep_power={"semantic": 3.0})._draws(batch, shape)
    semantic = plain[0] == 1
    assert torch.equal(plain[0], bent[0]) and semantic.any() and not semantic.all()
    assert torch.equal(plain[1][~semantic], bent[1][~semantic])
    assert not torch.equal(plain[1][semantic], bent[1][semantic])


def test_the_frozen_autoencoder_makes_targets_in_full_precision(build, samples):
    """16 bits are for the networks that learn; rounding the targets would add an error that no training removes."""
    model, batch = build(), collate(samples)
    tasks = torch.arange(len(samples)) % len(model.tasks)
    expected, _ = model._targets(batch, tasks)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = model._targets(batch, tasks)
    assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_going_on_with_the_paper_s_settings(smoke_profile, smoke_run, tmp_path):
    """p = 1, checkpointing, micro-batches, 16 bits, a time embedding that stays, and a fixed scale of the latents."""
    training = dataclasses.replace(
        smoke_profile.diffusion.training,
        steps=2,
        precision="bf16",
        gradient_checkpointing=True,
        micro_batch_size=2,
    )
    profile = dataclasses.replace(
        smoke_profile,
        denoiser=dataclasses.replace(smoke_profile.denoiser, train_time_embedding=False),
        diffusion=dataclasses.replace(smoke_profile.diffusion, self_condition_probability=1.0, training=training),
    )
    start = LDMSegPipeline.from_pretrained(smoke_run.folder / "diffusion" / "pipeline")
    autoencoder = copy.deepcopy(smoke_run.autoencoder)
    autoencoder.register_to_config(latent_scale=0.1 * autoencoder.config.latent_scale)
    with pytest.warns(UserWarning, match="standard deviation"):
        train_diffusion(profile, smoke_run.dataset, {"mask": autoencoder}, tmp_path, start=start)
    again = LDMSegPipeline.from_pretrained(tmp_path / "pipeline_last").denoiser
    assert not any(p.requires_grad for p in again.unet.time_embedding.parameters())
    before, after = start.denoiser.unet.state_dict(), again.unet.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert "time_embedding" not in changed and "conv_in" in changed
