"""Consistency distillation of a trained diffusion model, for answers in 1 to 8 steps (suggested in supplement B).

The student says at every timestep of a coarse grid where the teacher's own path ends (Song et al., "Consistency
Models", ICML 2023, Algorithm 2; in latent space Luo et al., "Latent Consistency Models", 2023). From z_t the teacher
goes to the next timestep of the grid by DDIM steps, and the student's answer at t must equal the answer there of its
own running mean. At the end of the grid the teacher's own estimate of z_0 is the answer.
"""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.profiles import ConsistencyProfile, DiffusionProfile, Profile
from ..data.panoptic import PanopticDataset
from ..diffusion.losses import consistency_loss
from ..diffusion.schedulers import build_sampler, set_timesteps
from ..models.autoencoder import MaskAutoencoder
from ..models.denoiser import Denoiser
from ..pipeline.ldmseg import LDMSegPipeline
from .diffusion import DiffusionObjective
from .loop import TrainingRecord, seen_settings, train


class ConsistencyObjective(DiffusionObjective):
    """The student's answer at z_t against its running mean's one teacher step further.

    The student and its running mean are never fed an earlier estimate. A teacher that was trained with its own is, as
    in sampling: from step to step of its path, beginning with zeros at noise alone, elsewhere with its estimate there.

    Args:
        teacher: a trained pipeline, whose parts are used where they lie and are frozen; the student begins as a copy of
            its denoiser, and sees its image encoder.
        diffusion: the mixture of tasks.
        settings: the grid, the teacher's steps between two of its timesteps, the loss, the running mean.
        seed: of tasks, timesteps and noise, per (image, visit).
    """

    def __init__(
        self, teacher: LDMSegPipeline, diffusion: DiffusionProfile, settings: ConsistencyProfile, *, seed: int = 0
    ) -> None:
        autoencoders: dict[str, MaskAutoencoder] = {"mask": teacher.autoencoder}
        if teacher.depth_autoencoder is not None:
            autoencoders["depth"] = teacher.depth_autoencoder
        student = copy.deepcopy(teacher.denoiser).train()
        student.register_to_config(self_condition=False)
        super().__init__(student, teacher.image_encoder, autoencoders, diffusion, seed=seed)
        if "image_encoder" in self.trained:
            del self.trained["image_encoder"]
        self.frozen["image_encoder"] = teacher.image_encoder.requires_grad_(False).eval()
        self.frozen["teacher"] = teacher.denoiser.requires_grad_(False).eval()
        if settings.training.gradient_checkpointing:
            student.unet.enable_gradient_checkpointing()
        self.trained["target"] = copy.deepcopy(student).requires_grad_(False)
        self.consistency = settings
        grid = settings.timesteps * settings.teacher_steps
        self.fine = torch.tensor([*set_timesteps(build_sampler("ddim", self.schedule.prediction_type), grid), 0])

    def train(self, mode: bool = True) -> "ConsistencyObjective":
        super().train(mode)
        self.trained["target"].eval()
        return self

    @torch.no_grad()
    def after_step(self) -> None:
        """The target follows the student."""
        decay = self.consistency.target_decay
        pairs = zip(self.trained["target"].parameters(), self.trained["denoiser"].parameters(), strict=True)
        for target, student in pairs:
            target.lerp_(student.to(target.dtype), 1 - decay)

    def _answer(
        self,
        network: Denoiser | nn.Module,
        z: Tensor,
        image: Tensor,
        t: Tensor,
        tasks: Tensor,
        condition: Tensor | None = None,
    ) -> Tensor:
        """A network's estimate of z_0 at z_t, given an earlier one; None: zeros."""
        condition = torch.zeros_like(z) if condition is None else condition
        return self.schedule.predicted_clean(network(z, image, condition, t, tasks), z, t)

    @torch.no_grad()
    def _teacher_path(self, z: Tensor, image: Tensor, place: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """DDIM from z at fine timestep number `place` to the grid's next: z there, its timestep, the last estimate."""
        t, estimate, condition = self.fine[place].to(z.device), z, None
        teacher = self.frozen["teacher"]
        if teacher.config.self_condition:
            condition = torch.zeros_like(z)
            rows = place.nonzero()[:, 0].to(z.device)
            if len(rows):
                condition[rows] = self._answer(teacher, z[rows], image[rows], t[rows], tasks[rows])
        for step in range(1, self.consistency.teacher_steps + 1):
            estimate = self._answer(teacher, z, image, t, tasks, condition)
            condition = condition if condition is None else estimate
            noise = self.schedule.implied_noise(z, estimate, t)
            t = self.fine[place + step].to(z.device)
            z = self.schedule.add_noise(estimate, noise, t)
        return z, t, estimate

    def forward(self, batch: Mapping[str, Any], totals: Mapping[str, float]) -> dict[str, Tensor]:
        """The distance between the two answers, over known cells."""
        device = batch["image"].device
        side = batch["image"].shape[-1] // self.frozen["mask"].factor
        shape = (self.trained["denoiser"].config.latent_channels, side, side)
        tasks, timesteps, _, noise = self._draws(batch, shape)
        clean, known = self._targets(batch, tasks)
        grid = timesteps * self.consistency.timesteps // 1000
        place = grid * self.consistency.teacher_steps
        tasks, noise = tasks.to(device), noise.to(device)
        t = self.fine[place].to(device)
        # sampling begins with noise alone, while z_999 still tells a little of z_0 (its signal-to-noise ratio is not 0)
        first = (place == 0).to(device)[:, None, None, None]
        z = torch.where(first, noise, self.schedule.add_noise(clean, noise, t))
        with torch.no_grad():
            image = self._image_latents(batch, side)
            later, s, estimate = self._teacher_path(z, image, place, tasks)
            target = self._answer(self.trained["target"], later, image, s, tasks)
            at_end = (grid == self.consistency.timesteps - 1).to(device)[:, None, None, None]
            target = torch.where(at_end, estimate, target)
        answer = self._answer(self.trained["denoiser"], z, image, t, tasks)
        losses = consistency_loss(answer, target, known, huber=self.consistency.huber)
        return {"loss": losses.sum() / totals["images"]}


def train_consistency(
    profile: Profile,
    dataset: PanopticDataset,
    teacher: LDMSegPipeline,
    folder: str | Path,
    *,
    seed: int = 0,
    on_log: Callable[[Mapping[str, float]], None] | None = None,
) -> tuple[LDMSegPipeline, TrainingRecord]:
    """Distil `teacher` by the profile's `consistency` section and save the student to `folder`/pipeline.

    The student's pipeline is the teacher's but for the denoiser and the default sampler, which is "consistency".

    Returns:
        The student's pipeline (averaged weights where the profile has an EMA), and the record of the training.
    """
    settings = profile.consistency
    torch.manual_seed(seed)
    networks = [part for part in teacher.components.values() if isinstance(part, nn.Module)]
    learnable = [p for network in networks for p in network.parameters() if p.requires_grad]
    objective = ConsistencyObjective(teacher, profile.diffusion, settings, seed=seed)
    record, ema = train(
        objective,
        dataset,
        settings.training,
        folder,
        seed=seed,
        workers=profile.data.workers,
        title="consistency distillation",
        identity=seen_settings(profile, "consistency"),
        on_log=on_log,
    )
    if ema is not None:
        ema.copy_to(p for p in objective.trained.parameters() if p.requires_grad)
    for parameter in learnable:
        parameter.requires_grad_(True)
    parts = {name: part for name, part in teacher.components.items() if name != "denoiser"}
    student = LDMSegPipeline(
        **parts,
        denoiser=objective.trained["denoiser"].eval(),
        **{name: teacher.config[name] for name in _SETTINGS},
        sampler="consistency",
    )
    student.save_pretrained(Path(folder) / "pipeline")
    return student, record


_SETTINGS = (
    *("image_size", "categories", "prediction_type", "threshold", "min_area", "tile_size"),
    "trained_on_photographs",
)
