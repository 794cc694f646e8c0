"""Noise levels and samplers: Stable Diffusion's schedule, predictions as x0, loss weights, and the samplers.

Notation: z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps for t = 0..999, SNR_t = abar_t / (1 - abar_t). Latents, noise
and predictions are [batch, channels, height, width]; t is int64 [batch].
"""

from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float, Int
from torch import Tensor

from ..core.errors import InputError
from ..models.noise_levels import BETA_END, BETA_START, NUM_TIMESTEPS, alphas_cumprod

SCHEDULE = {
    "num_train_timesteps": NUM_TIMESTEPS,
    "beta_start": BETA_START,
    "beta_end": BETA_END,
    "beta_schedule": "scaled_linear",
}
PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")

Latents = Float[Tensor, "batch channels height width"]
Timesteps = Int[Tensor, "batch"]


class NoiseSchedule:
    """The forward process, and what a network's prediction says about z_0. Computes in float32."""

    def __init__(self, prediction_type: str = "epsilon") -> None:
        if prediction_type not in PREDICTION_TYPES:
            known = ", ".join(PREDICTION_TYPES)
            raise InputError(f"unknown prediction type {prediction_type!r}; valid ones are {known}")
        self.prediction_type = prediction_type
        self.alphas_cumprod = alphas_cumprod()

    def _levels(self, timesteps: Timesteps) -> tuple[Tensor, Tensor]:
        """sqrt(abar_t) and sqrt(1 - abar_t), shaped to multiply latents."""
        if self.alphas_cumprod.device != timesteps.device:
            self.alphas_cumprod = self.alphas_cumprod.to(timesteps.device)
        abar = self.alphas_cumprod[timesteps][:, None, None, None]
        return abar.sqrt(), (1 - abar).sqrt()

    def add_noise(self, clean: Latents, noise: Latents, timesteps: Timesteps) -> Latents:
        """z_t of clean latents z_0."""
        signal, sigma = self._levels(timesteps)
        return signal * clean + sigma * noise

    def renoise(self, noisy: Latents, noise: Latents, timestep: int, later: int) -> Latents:
        """z at the noisier timestep `later` from z at `timestep`, by the forward process between the two."""
        ratio = self.alphas_cumprod[later] / self.alphas_cumprod[timestep]
        return ratio.sqrt() * noisy + (1 - ratio).sqrt() * noise

    def target(self, clean: Latents, noise: Latents, timesteps: Timesteps) -> Latents:
        """What the network should say: the noise, z_0, or v = sqrt(abar) eps - sqrt(1 - abar) z_0."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return clean
        signal, sigma = self._levels(timesteps)
        return signal * noise - sigma * clean

    def predicted_clean(self, prediction: Latents, noisy: Latents, timesteps: Timesteps) -> Latents:
        """The estimate of z_0 in a prediction at z_t; unclamped, in float32."""
        prediction = prediction.float()
        if self.prediction_type == "sample":
            return prediction
        signal, sigma = self._levels(timesteps)
        if self.prediction_type == "epsilon":
            return (noisy - sigma * prediction) / signal
        return signal * noisy - sigma * prediction

    def prediction_of(self, clean: Latents, noisy: Latents, timesteps: Timesteps) -> Latents:
        """The prediction at z_t in which `predicted_clean` finds this estimate of z_0."""
        return self.target(clean, self.implied_noise(noisy, clean, timesteps), timesteps)

    def implied_noise(self, noisy: Latents, clean: Latents, timesteps: Timesteps) -> Latents:
        """The noise by which z_t comes from an estimate of z_0."""
        signal, sigma = self._levels(timesteps)
        return (noisy - signal * clean) / sigma

    def snr(self, timesteps: Timesteps) -> Float[Tensor, "batch"]:
        """Signal-to-noise ratio abar / (1 - abar)."""
        abar = self.alphas_cumprod.to(timesteps.device)[timesteps]
        return abar / (1 - abar)

    def loss_weight(self, timesteps: Timesteps, *, weighting: str, gamma: float = 2.0) -> Float[Tensor, "batch"]:
        """The weight of the squared error of this schedule's own prediction.

        The weight w is defined on the noise loss: 1 ("none"), min(SNR, gamma) / SNR ("min_snr", which lowers the loss
        of small timesteps: t < 255 for gamma = 2; supplement B, "Loss Weights"), or 1 / SNR ("x0": weight 1 on z_0).
        The same prediction errs by |d eps|^2 = SNR |d z_0|^2 and |d z_0|^2 = (1 - abar) |d v|^2, so that the weight
        becomes w SNR for z_0 and w abar for v.
        """
        snr = self.snr(timesteps)
        if weighting == "none":
            weight = torch.ones_like(snr)
        elif weighting == "min_snr":
            weight = snr.clamp(max=gamma) / snr
        elif weighting == "x0":
            weight = 1 / snr
        else:
            raise InputError(f"unknown loss weight {weighting!r}; valid ones are none, min_snr, x0")
        if self.prediction_type == "sample":
            return weight * snr
        if self.prediction_type == "v_prediction":
            return weight * snr / (1 + snr)  # abar = SNR / (1 + SNR)
        return weight


class TrailingDDIMScheduler(DDIMScheduler):
    """DDIM with eta = 0 that always steps to the next timestep of its own list.

    diffusers' scheduler steps to t - 1000 // N, which is not the next trailing timestep when N does not divide 1000.
    """

    def step(  # type: ignore[override]
        self, model_output: Latents, timestep: int, sample: Latents, generator: Any = None, return_dict: bool = True
    ) -> DDIMSchedulerOutput:
        """z at the next timestep; at the last one z of abar_0, which the sampling loop replaces by the z_0 estimate."""
        schedule = NoiseSchedule(self.config.prediction_type)
        t = torch.full((len(sample),), int(timestep), device=sample.device)
        clean = schedule.predicted_clean(model_output, sample, t)
        noise = self.noise(schedule.implied_noise(sample, clean, t), generator)
        following = torch.full_like(t, self.following(timestep))
        return DDIMSchedulerOutput(schedule.add_noise(clean, noise, following), clean)

    def noise(self, implied: Latents, generator: Any) -> Latents:
        """The noise of the next timestep: that of this one."""
        return implied

    def following(self, timestep: int) -> int:
        """The timestep after `timestep` in the list; 0 after the last."""
        place = int((self.timesteps == int(timestep)).nonzero()[0])
        return int(self.timesteps[place + 1]) if place + 1 < len(self.timesteps) else 0


class ConsistencyScheduler(TrailingDDIMScheduler):
    """Multistep consistency sampling: each estimate of z_0 is noised afresh to the next timestep (for notebook 12).

    diffusers' LCMScheduler does the same at timesteps that are not the trailing ones, between boundary scalings that a
    network which predicts at all timesteps by one parametrisation does without.
    """

    def noise(self, implied: Latents, generator: Any) -> Latents:
        """Fresh noise."""
        return randn_tensor(implied.shape, generator=generator, device=implied.device)


class SharedSignatureUniPCScheduler(UniPCMultistepScheduler):
    """UniPC whose `step` takes a generator like that of every other sampler; it draws nothing."""

    def step(  # type: ignore[override]
        self, model_output: Latents, timestep: int, sample: Latents, generator: Any = None, return_dict: bool = True
    ) -> SchedulerOutput:
        """z at the next timestep."""
        return super().step(model_output, timestep, sample, return_dict=return_dict)


SAMPLERS: dict[str, tuple[type, dict[str, Any]]] = {
    "ddim": (TrailingDDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}),
    # posterior ("fixed small") variance: the paper names DDPM and no variance
    "ddpm": (DDPMScheduler, {"clip_sample": False, "variance_type": "fixed_small"}),
    "dpmsolver++": (
        DPMSolverMultistepScheduler,
        {"algorithm_type": "dpmsolver++", "final_sigmas_type": "sigma_min"},
    ),
    "unipc": (SharedSignatureUniPCScheduler, {"final_sigmas_type": "sigma_min"}),
    "consistency": (ConsistencyScheduler, {"clip_sample": False}),
}


def set_timesteps(scheduler: Any, num_inference_steps: int) -> list[int]:
    """Set the trailing timesteps of a sampler, noisiest first, and return them.

    Raises:
        InputError: the number of steps is not in 1..1000.
    """
    if not 1 <= num_inference_steps <= NUM_TIMESTEPS:
        raise InputError(f"num_inference_steps is {num_inference_steps}; give 1 to {NUM_TIMESTEPS}")
    scheduler.set_timesteps(num_inference_steps)
    # by rounding, diffusers' list has one more, -1, for some numbers of steps, 61 the least
    return [int(t) for t in scheduler.timesteps[:num_inference_steps]]


def build_sampler(name: str, prediction_type: str = "epsilon") -> Any:
    """The sampler `name` as a diffusers scheduler with Stable Diffusion's noise levels and trailing timesteps.

    All share one signature: set_timesteps(sampler, n), then step(prediction, t, z_t, generator=...).prev_sample.

    Raises:
        InputError: unknown sampler or prediction type.
    """
    if name not in SAMPLERS:
        raise InputError(f"unknown sampler {name!r}; valid ones are {', '.join(SAMPLERS)}")
    if prediction_type not in PREDICTION_TYPES:
        raise InputError(f"unknown prediction type {prediction_type!r}; valid ones are {', '.join(PREDICTION_TYPES)}")
    kind, settings = SAMPLERS[name]
    return kind(**SCHEDULE, prediction_type=prediction_type, timestep_spacing="trailing", **settings)
