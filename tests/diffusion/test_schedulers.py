"""Noise levels are Stable Diffusion's, one prediction means one thing however it is said, and samplers land on z_0."""

import itertools
import math

import pytest
import torch
from diffusers import DDIMScheduler

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.diffusion.schedulers import PREDICTION_TYPES, SAMPLERS, NoiseSchedule, build_sampler, set_timesteps

TABLE_S2_STEPS = (1, 2, 3, 4, 5, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90, 100, 200)


def latents(count: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Clean latents, noise and timesteps."""
    generator = torch.Generator().manual_seed(seed)
    clean, noise = torch.randn(2, count, 4, 3, 3, generator=generator)
    return clean, noise, torch.randint(1000, (count,), generator=generator)


def said_as(prediction_type: str, epsilon: torch.Tensor, noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The noise prediction `epsilon` at `noisy`, said in another way."""
    clean = NoiseSchedule("epsilon").predicted_clean(epsilon, noisy, t)
    return NoiseSchedule(prediction_type).target(clean, epsilon, t)


def test_noise_levels_are_those_of_stable_diffusion():
    """Method 3.2."""
    schedule = NoiseSchedule()
    levels = schedule.alphas_cumprod[[0, 250, 500, 999]]
    assert torch.allclose(levels, torch.tensor([0.99915, 0.673793, 0.276333, 0.004660]), atol=1e-6)
    snr = schedule.snr(torch.tensor([250, 999]))
    assert torch.allclose(snr, torch.tensor([2.0655, 0.004682]), rtol=1e-4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_and_training_share_the_noise_levels(name):
    assert torch.allclose(build_sampler(name).alphas_cumprod, NoiseSchedule().alphas_cumprod, rtol=1e-4)


def test_min_snr_weights_of_the_noise_loss():
    """Method 3.4, gamma = 2: below 1 for t < 255, 0.8429 on average."""
    weight = NoiseSchedule("epsilon").loss_weight(torch.arange(1000), weighting="min_snr", gamma=2.0)
    expected = torch.tensor([0.0017015, 0.10177, 0.23658, 0.41601, 0.65360])
    assert torch.allclose(weight[[0, 50, 100, 150, 200]], expected, rtol=1e-4)
    assert (weight[:255] < 1).all() and (weight[255:] == 1).all()
    assert weight.mean().item() == pytest.approx(0.8429, abs=1e-4)
    assert (NoiseSchedule("epsilon").loss_weight(torch.arange(1000), weighting="min_snr", gamma=5.0) < 1).sum() == 147


@pytest.mark.parametrize("weighting", ["none", "min_snr", "x0"])
def test_the_three_weighted_losses_of_one_prediction_agree(weighting):
    clean, noise, _ = latents(count=7)
    t = torch.tensor([0, 50, 254, 255, 500, 900, 999])
    noisy = NoiseSchedule().add_noise(clean, noise, t)
    guess = noise + torch.randn(noise.shape, generator=torch.Generator().manual_seed(1))
    losses = []
    for prediction_type in PREDICTION_TYPES:
        schedule = NoiseSchedule(prediction_type)
        error = said_as(prediction_type, guess, noisy, t) - schedule.target(clean, noise, t)
        weight = schedule.loss_weight(t, weighting=weighting, gamma=2.0)
        losses.append(weight * error.square().mean(dim=(1, 2, 3)))
    # at t = 0 the noise is 3 % of the latents, and float32 loses digits in taking it out
    assert torch.allclose(losses[0], losses[1], rtol=5e-3)
    assert torch.allclose(losses[0], losses[2], rtol=5e-3)


def test_weight_x0_weighs_the_error_of_z0_by_one():
    assert torch.allclose(
        NoiseSchedule("sample").loss_weight(torch.arange(1000), weighting="x0"), torch.ones(1000), rtol=1e-5
    )


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_right_prediction_gives_the_clean_latents_back(prediction_type):
    clean, noise, t = latents()
    schedule = NoiseSchedule(prediction_type)
    noisy = schedule.add_noise(clean, noise, t)
    assert torch.allclose(schedule.predicted_clean(schedule.target(clean, noise, t), noisy, t), clean, atol=1e-4)


def test_noise_keeps_unit_variance():
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 4, 4, 64, 64, generator=generator)
    noisy = NoiseSchedule().add_noise(clean, noise, torch.tensor([0, 300, 600, 999]))
    assert torch.allclose(noisy.std(dim=(1, 2, 3)), torch.ones(4), atol=0.03)
    assert (noisy[0] - clean[0]).abs().max() < 0.3 and (noisy[3] - noise[3]).abs().max() < 0.4


def test_going_back_up_ends_at_the_level_of_the_forward_process():
    """Re-noised from t to a later s, latents are distributed as if noised to s at once."""
    schedule, generator = NoiseSchedule(), torch.Generator().manual_seed(0)
    clean = torch.ones(1, 1, 300, 300)
    first, second = torch.randn(2, *clean.shape, generator=generator)
    noisy = schedule.renoise(schedule.add_noise(clean, first, torch.tensor([200])), second, 200, 700)
    level = schedule.alphas_cumprod[700].item()
    assert noisy.mean().item() == pytest.approx(math.sqrt(level), abs=0.01)
    assert noisy.var().item() == pytest.approx(1 - level, rel=0.02)


@pytest.mark.parametrize(
    ("steps", "timesteps"),
    [
        (1, [999]),
        (2, [999, 499]),
        (3, [999, 666, 332]),
        (4, [999, 749, 499, 249]),
        (5, [999, 799, 599, 399, 199]),
        (15, [999, 932, 866, 799, 732, 666, 599, 532, 466, 399, 332, 266, 199, 132, 66]),
        (50, list(range(999, 0, -20))),
    ],
)
@pytest.mark.parametrize("name", SAMPLERS)
def test_timesteps_are_trailing(name, steps, timesteps):
    """Method 5.1: from 999 down in equal steps, for every sampler alike."""
    assert set_timesteps(build_sampler(name), steps) == timesteps


@pytest.mark.parametrize("steps", TABLE_S2_STEPS)
def test_all_samplers_go_through_the_same_timesteps_at_every_count_of_table_s2(steps):
    """Method 5.1: trailing, t = round(1000 - i 1000 / N) - 1, halves to the even side as NumPy rounds them."""
    expected = [round(1000 - i * 1000 / steps) - 1 for i in range(steps)]
    for name in ("ddim", "ddpm", "dpmsolver++", "unipc"):
        assert set_timesteps(build_sampler(name), steps) == expected, name


def test_where_diffusers_own_ddim_does_not_step_to_the_next_timestep():
    """It steps to t - 1000 // N: another timestep than the next one when N does not divide 1000."""
    clean, noise, _ = latents(count=1)
    schedule, missed = NoiseSchedule("epsilon"), []
    for steps in TABLE_S2_STEPS:
        theirs = DDIMScheduler.from_config(build_sampler("ddim", "epsilon").config)
        for t, following in itertools.pairwise(set_timesteps(theirs, steps)):
            landed = theirs.step(noise, t, schedule.add_noise(clean, noise, torch.tensor([t]))).prev_sample
            if not torch.allclose(landed, schedule.add_noise(clean, noise, torch.tensor([following])), atol=1e-4):
                missed.append(steps)
                break
    assert missed == [3, 15, 30, 60, 70, 80, 90]


@pytest.mark.parametrize("name", SAMPLERS)
def test_all_samplers_share_one_signature(name):
    z, prediction, _ = latents(count=2)
    scheduler = build_sampler(name, "epsilon")
    for t in set_timesteps(scheduler, 3)[:2]:
        generators = [torch.Generator().manual_seed(i) for i in range(2)]
        z = scheduler.step(prediction, t, z, generator=generators).prev_sample
        assert z.shape == prediction.shape and z.isfinite().all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_any_number_of_steps_starts_at_999_and_never_falls_below_0(name):
    """diffusers' own lists end with -1 for 62 numbers of steps, 61 the least."""
    for steps in (*range(1, 130), 201, 333, 500, 999, 1000):
        timesteps = set_timesteps(build_sampler(name), steps)
        assert len(timesteps) == steps and timesteps[0] == 999 and timesteps[-1] >= 0
        assert all(later < earlier for earlier, later in itertools.pairwise(timesteps))


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_other_numbers_of_steps_are_refused(steps):
    with pytest.raises(InputError, match="1 to 1000"):
        set_timesteps(build_sampler("ddim"), steps)


@pytest.mark.parametrize("steps", TABLE_S2_STEPS)
def test_ddim_goes_to_the_next_timestep_of_its_list(steps):
    """With the exact noise each step lands on the forward process, at exactly the next timestep."""
    clean, noise, _ = latents(count=1)
    schedule, scheduler = NoiseSchedule("epsilon"), build_sampler("ddim", "epsilon")
    timesteps = set_timesteps(scheduler, steps)
    z = schedule.add_noise(clean, noise, torch.tensor([999]))
    for t, following in zip(timesteps, [*timesteps[1:], 0]):
        z = scheduler.step(noise, t, z).prev_sample
        assert torch.allclose(z, schedule.add_noise(clean, noise, torch.tensor([following])), atol=2e-4)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_a_step_of_ddim_does_not_depend_on_how_the_prediction_is_said(prediction_type):
    clean, noise, _ = latents(count=1)
    t = torch.tensor([666])
    noisy = NoiseSchedule().add_noise(clean, noise, t)
    guess = noise + 0.3
    ends = []
    for said in ("epsilon", prediction_type):
        scheduler = build_sampler("ddim", said)
        set_timesteps(scheduler, 3)
        ends.append(scheduler.step(said_as(said, guess, noisy, t), 666, noisy).prev_sample)
    assert torch.allclose(*ends, atol=1e-4)


def test_ddpm_draws_the_posterior_of_the_forward_process():
    """Steps with the exact z_0 have mean and variance of q(z_s | z_t, z_0), Ho et al. (2020), equations 6 and 7."""
    scheduler, schedule = build_sampler("ddpm", "sample"), NoiseSchedule("sample")
    t, following = set_timesteps(scheduler, 4)[1:3]
    clean, noisy = torch.full((1, 1, 200, 200), 0.7), torch.full((1, 1, 200, 200), -0.4)
    z = scheduler.step(clean, t, noisy, generator=[torch.Generator().manual_seed(0)]).prev_sample
    now, then = schedule.alphas_cumprod[t].double(), schedule.alphas_cumprod[following].double()
    alpha = now / then
    mean = (then.sqrt() * (1 - alpha) * 0.7 + alpha.sqrt() * (1 - then) * -0.4) / (1 - now)
    assert z.mean().item() == pytest.approx(mean.item(), abs=0.01)
    assert z.var().item() == pytest.approx(((1 - then) / (1 - now) * (1 - alpha)).item(), rel=0.02)


def test_unknown_names_are_listed():
    with pytest.raises(InputError, match="'dimm'; valid ones are ddim, ddpm"):
        build_sampler("dimm")
    with pytest.raises(InputError, match="'noise'; valid ones are epsilon, sample"):
        build_sampler("ddim", "noise")
    with pytest.raises(InputError, match="'noise'"):
        NoiseSchedule("noise")
    with pytest.raises(InputError, match="'snr'; valid ones are none, min_snr, x0"):
        NoiseSchedule().loss_weight(torch.tensor([1]), weighting="snr")
