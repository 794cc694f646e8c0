"""The sampling loop, once: for segmentation, for inpainting and for every sampler."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.errors import InputError
from ..core.randomness import torch_generator
from ..models.affinity import Affinity
from ..models.denoiser import Denoiser
from .schedulers import NoiseSchedule, build_sampler, set_timesteps

Latents = Float[Tensor, "batch channels height width"]


@runtime_checkable
class Constraint(Protocol):
    """What holds the known part of a sample in place (see `ldmseg_lib.pipeline.inpainting`)."""

    def clean(self, estimate: Latents) -> Latents:
        """An estimate of z_0 with the known cells as they are."""

    def noisy(self, sample: Latents, timestep: int | None) -> Latents:
        """z_t with the known cells at that noise level; None is the end, where they are clean."""


def initial_noise(shape: tuple[int, ...], generators: Sequence[torch.Generator]) -> Latents:
    """Standard normal latents [len(generators), *shape], each sample from its own CPU generator."""
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


def branch(generators: Sequence[torch.Generator], *purpose: int | str) -> list[torch.Generator]:
    """For each generator a new one for `purpose`; what is drawn for one purpose does not shift another."""
    return [torch_generator(generator.initial_seed(), *purpose) for generator in generators]


def one_each(generator: torch.Generator | Sequence[torch.Generator] | None, count: int) -> list[torch.Generator]:
    """A CPU generator for each of `count` samples: those given, or new ones by the one given; None: torch's global one.

    Raises:
        InputError: as many generators as samples were not given.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        if len(generator) != count:
            raise InputError(f"{len(generator)} generators for {count} samples; give one, or one for each")
        return list(generator)
    device = "cpu" if generator is None else generator.device
    seeds = [torch.randint(2**62, (), generator=generator, device=device) for _ in range(count)]
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]


@torch.no_grad()
def sample_latents(
    denoiser: Denoiser,
    image_latents: Float[Tensor, "batch image_channels height width"],
    task_ids: Int[Tensor, "batch"],
    generators: Sequence[torch.Generator],
    *,
    prediction_type: str,
    affinity: Affinity | None = None,
    sampler: str = "ddim",
    num_inference_steps: int = 50,
    rounding: Callable[[Latents], Latents] | None = None,
    constraint: Constraint | None = None,
    resamplings: int = 1,
    callback: Callable[[int, int], None] | None = None,
    on_estimate: Callable[[int, Latents], None] | None = None,
) -> Latents:
    """Samples of z_0, float32, after `num_inference_steps` denoising steps.

    The self-condition is zero at first, then the step before's estimate of z_0 (always zero for a network trained
    without it). The last step returns the estimate.

    Args:
        denoiser: the network.
        image_latents: the condition of each sample.
        task_ids: the task of each sample.
        generators: one CPU generator a sample, so that samples do not depend on the batch they are in.
        prediction_type: what the network predicts.
        affinity: as `Denoiser.forward` takes it.
        sampler: "ddim", "ddpm", "dpmsolver++", "unipc" or "consistency" (for distilled networks).
        num_inference_steps: denoising steps.
        rounding: replaces each estimate of z_0 but the last by the nearest valid one, from which the step then goes on
            (the clamping trick of Li et al., Diffusion-LM, 2022, section 4.2); None: estimates as they are.
        constraint: holds known cells in place.
        resamplings: how often each step is done, going back up in between (RePaint); 1 is the plain loop.
        callback: called before each step with (steps done, steps in all); may raise to cancel.
        on_estimate: called after each step with (step, z_0 estimate).

    Raises:
        InputError: unknown sampler, a number of steps outside 1..1000, or resampling that the sampler cannot do.
    """
    if resamplings < 1:
        raise InputError(f"resamplings is {resamplings}; 1 does each step once")
    if resamplings > 1 and sampler not in ("ddim", "ddpm"):
        raise InputError(
            f"resampling goes back up in noise, which {sampler!r} cannot: it builds on its last steps; use ddim"
        )
    schedule, scheduler = NoiseSchedule(prediction_type), build_sampler(sampler, prediction_type)
    timesteps = set_timesteps(scheduler, num_inference_steps)
    shape = (denoiser.config.latent_channels, *image_latents.shape[-2:])
    device = image_latents.device
    z = initial_noise(shape, generators).to(device)
    estimate = torch.zeros_like(z)
    for step, t in enumerate(timesteps):
        following = timesteps[step + 1] if step + 1 < len(timesteps) else None
        for repeat in range(resamplings if following is not None else 1):
            if callback is not None:
                callback(step, len(timesteps))
            if constraint is not None:
                z = constraint.noisy(z, t)
            batch_t = torch.full((len(z),), t, device=device)
            condition = estimate if denoiser.config.self_condition else torch.zeros_like(z)
            prediction = denoiser(z, image_latents, condition, batch_t, task_ids, affinity).float()
            estimate = schedule.predicted_clean(prediction, z, batch_t)
            if rounding is not None and following is not None:
                estimate = rounding(estimate)
                prediction = schedule.prediction_of(estimate, z, batch_t)
            if constraint is not None:
                estimate = constraint.clean(estimate)
            if on_estimate is not None:
                on_estimate(step, estimate)
            if following is None:
                return estimate
            z = scheduler.step(prediction, t, z, generator=list(generators)).prev_sample
            if repeat + 1 < resamplings:
                z = schedule.renoise(z, initial_noise(shape, generators).to(device), following, t)
    return estimate
