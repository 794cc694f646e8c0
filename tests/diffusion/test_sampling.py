"""The sampling loop: exact networks give exact answers, and a sample depends on its own generator alone."""

from types import SimpleNamespace

import pytest
import torch

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.core.randomness import torch_generator
from ldmseg_lib.diffusion.sampling import branch, initial_noise, sample_latents
from ldmseg_lib.diffusion.schedulers import PREDICTION_TYPES, SAMPLERS, NoiseSchedule

SHAPE = (4, 6, 6)
TABLE_S2_STEPS = (1, 2, 3, 4, 5, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90, 100, 200)


class ExactNetwork:
    """Knows z_0 (it is what the image latents say) and answers in the way asked for; keeps what it was asked."""

    def __init__(self, prediction_type: str = "sample", *, self_condition: bool = True) -> None:
        self.config = SimpleNamespace(latent_channels=SHAPE[0], self_condition=self_condition)
        self.schedule = NoiseSchedule(prediction_type)
        self.timesteps: list[int] = []
        self.inputs: list[torch.Tensor] = []
        self.conditions: list[torch.Tensor] = []

    def __call__(self, noisy, image_latents, condition, timesteps, task_ids, affinity=None):
        self.timesteps.append(int(timesteps[0]))
        self.inputs.append(noisy.clone())
        self.conditions.append(condition.clone())
        signal, sigma = self.schedule._levels(timesteps)
        return self.schedule.target(image_latents, (noisy - signal * image_latents) / sigma, timesteps)


class WrongNetwork(ExactNetwork):
    """Is the further off z_0 the more it sees of noise: its answers depend on every step before."""

    def __call__(self, noisy, image_latents, condition, timesteps, task_ids, affinity=None):
        return super().__call__(noisy, image_latents, condition, timesteps, task_ids) + 0.1 * noisy + 0.1 * condition


def clean_latents(count: int = 2) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(9))


def generators(count: int = 2) -> list[torch.Generator]:
    return [torch_generator("sampling", i) for i in range(count)]


def sample(network, clean: torch.Tensor | None = None, *, prediction_type: str = "sample", **settings) -> torch.Tensor:
    clean = clean_latents() if clean is None else clean
    streams = settings.pop("generators", None) or generators(len(clean))
    tasks = torch.zeros(len(clean), dtype=torch.long)
    return sample_latents(network, clean, tasks, streams, prediction_type=prediction_type, **settings)


@pytest.mark.parametrize("steps", TABLE_S2_STEPS)
def test_the_exact_network_gives_exactly_z0(steps):
    assert torch.equal(sample(ExactNetwork(), num_inference_steps=steps), clean_latents())


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_every_sampler_ends_at_z0_however_the_network_says_it(sampler, prediction_type):
    network = ExactNetwork(prediction_type)
    found = sample(network, prediction_type=prediction_type, sampler=sampler, num_inference_steps=6)
    assert torch.allclose(found, clean_latents(), atol=1e-3)
    assert network.timesteps == [999, 832, 666, 499, 332, 166]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_the_network_sees_has_the_noise_of_its_timestep(sampler):
    """With the exact network z_t - sqrt(abar) z_0 is noise of variance 1 - abar at every step."""
    clean = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    network = ExactNetwork()
    sample(network, clean, sampler=sampler, num_inference_steps=8)
    levels = NoiseSchedule().alphas_cumprod
    for z, t in zip(network.inputs, network.timesteps):
        noise = z - levels[t].sqrt() * clean
        expected = (1 - levels[t]) if t != 999 else 1.0
        assert noise.var().item() == pytest.approx(float(expected), rel=0.06)


def test_the_last_step_returns_the_estimate_itself():
    """Method 5.1, trap 10: not z at abar_0, which still has a little noise."""
    estimates = []
    found = sample(WrongNetwork(), num_inference_steps=3, on_estimate=lambda step, z: estimates.append((step, z)))
    assert [step for step, _ in estimates] == [0, 1, 2]
    assert torch.equal(found, estimates[-1][1])


def test_the_self_condition_is_zero_and_then_the_estimate_before():
    network, estimates = WrongNetwork(), []
    sample(network, num_inference_steps=4, on_estimate=lambda _, z: estimates.append(z))
    assert (network.conditions[0] == 0).all()
    for condition, estimate in zip(network.conditions[1:], estimates):
        assert torch.equal(condition, estimate)


def test_a_network_that_never_learned_self_conditioning_gets_none():
    network = WrongNetwork(self_condition=False)
    sample(network, num_inference_steps=3)
    assert all((condition == 0).all() for condition in network.conditions)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sample_does_not_depend_on_the_batch_it_is_in(sampler):
    clean = clean_latents(4)
    together = sample(WrongNetwork(), clean, sampler=sampler, num_inference_steps=5)
    for place in range(4):
        stream = [torch_generator("sampling", place)]
        alone = sample(
            WrongNetwork(), clean[place : place + 1], generators=stream, sampler=sampler, num_inference_steps=5
        )
        assert torch.allclose(alone[0], together[place], atol=1e-5)


def test_noise_comes_from_each_sample_s_own_generator():
    noise = initial_noise(SHAPE, generators(3))
    assert noise.shape == (3, *SHAPE)
    assert torch.equal(noise[2:], initial_noise(SHAPE, [torch_generator("sampling", 2)]))
    assert not torch.equal(noise[0], noise[1])


def test_what_is_drawn_for_one_purpose_does_not_shift_another():
    first, second = generators()
    torch.rand(100, generator=first)
    again, _ = branch([first, second], "instance")
    assert torch.equal(torch.rand(5, generator=again), torch.rand(5, generator=branch(generators(), "instance")[0]))
    seeds = {g.initial_seed() for purpose in ("instance", "semantic") for g in branch(generators(), purpose)}
    assert len(seeds) == 4


@pytest.mark.parametrize(("sampler", "deterministic"), [("ddim", True), ("ddpm", False)])
def test_ddim_follows_its_estimate_and_ddpm_adds_noise(sampler, deterministic):
    clean, network = clean_latents(1), WrongNetwork()
    sample(network, clean, sampler=sampler, num_inference_steps=3)
    start, then = network.inputs[:2]
    now, next_ = NoiseSchedule().alphas_cumprod[[999, 666]]
    estimate = clean + 0.1 * start
    noise = (start - now.sqrt() * estimate) / (1 - now).sqrt()
    assert torch.allclose(then, next_.sqrt() * estimate + (1 - next_).sqrt() * noise, atol=1e-4) == deterministic


class Known:
    """Holds the left half of the latents in place."""

    def __init__(self, clean: torch.Tensor) -> None:
        self.value = clean
        self.schedule = NoiseSchedule()
        self.noise = torch.zeros_like(clean)

    def clean(self, estimate):
        return torch.cat([self.value[..., :3], estimate[..., 3:]], dim=-1)

    def noisy(self, z, timestep):
        known = self.schedule.add_noise(self.value, self.noise, torch.full((len(z),), timestep))
        return torch.cat([known[..., :3], z[..., 3:]], dim=-1)


@pytest.mark.parametrize("resamplings", [1, 3])
def test_a_constraint_holds_at_every_step_and_at_the_end(resamplings):
    network, constraint = WrongNetwork(), Known(clean_latents() + 5)
    found = sample(network, num_inference_steps=3, constraint=constraint, resamplings=resamplings)
    assert torch.equal(found[..., :3], constraint.value[..., :3])
    for z, t in zip(network.inputs, network.timesteps):
        assert torch.equal(z, constraint.noisy(z, t))
    assert all(torch.equal(c[..., :3], constraint.value[..., :3]) for c in network.conditions[1:])


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_resampling_does_each_step_again_from_where_it_began(sampler):
    """Each step but the last is done `resamplings` times, at the same noise level each time."""
    network, clean = ExactNetwork(), torch.randn(1, 4, 48, 48, generator=torch.Generator().manual_seed(0))
    sample(network, clean, sampler=sampler, num_inference_steps=3, resamplings=4)
    assert network.timesteps == [999] * 4 + [666] * 4 + [332]
    levels = NoiseSchedule().alphas_cumprod
    for z, t in list(zip(network.inputs, network.timesteps))[1:]:
        assert (z - levels[t].sqrt() * clean).var().item() == pytest.approx((1 - levels[t]).item(), rel=0.1)
    assert not torch.equal(network.inputs[1], network.inputs[2])


@pytest.mark.parametrize("sampler", ["dpmsolver++", "unipc"])
def test_resampling_with_a_sampler_that_remembers_is_refused(sampler):
    with pytest.raises(InputError, match=sampler.replace("+", r"\+")):
        sample(ExactNetwork(), sampler=sampler, num_inference_steps=3, resamplings=2)


def test_no_resampling_at_all_is_refused():
    with pytest.raises(InputError, match="resamplings is 0"):
        sample(ExactNetwork(), num_inference_steps=3, resamplings=0)


def test_the_callback_counts_steps_and_can_cancel():
    seen = []
    sample(ExactNetwork(), num_inference_steps=4, callback=lambda *state: seen.append(state))
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4)]

    def cancel(step, total):
        if step == 2:
            raise KeyboardInterrupt

    network = ExactNetwork()
    with pytest.raises(KeyboardInterrupt):
        sample(network, num_inference_steps=4, callback=cancel)
    assert len(network.timesteps) == 2
