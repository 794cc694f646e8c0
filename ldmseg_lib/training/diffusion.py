"""Training the latent diffusion model: the weighted squared error of the denoiser's prediction."""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from ..core.errors import InputError
from ..core.profiles import DiffusionProfile, Profile
from ..data.panoptic import PanopticDataset
from ..diffusion.losses import denoising_loss
from ..diffusion.schedulers import NoiseSchedule
from ..diffusion.tasks import get_tasks, known_cells
from ..models.autoencoder import MaskAutoencoder
from ..models.denoiser import Denoiser, build_denoiser
from ..models.feature_cache import FeatureCache, cache_that_pays
from ..models.image_encoders import ImageEncoder, build_image_encoder
from ..pipeline.ldmseg import LDMSegPipeline
from .affinity import affinity_error, encode_batch, pretrain_affinity
from .autoencoder import warn_of_latent_scale
from .loop import TrainingRecord, seen_settings, train
from .objective import ImageObjective


class DiffusionObjective(ImageObjective):
    """Denoising of mask latents given the image, the task of each sample drawn from a mixture.

    Args:
        denoiser: learns.
        image_encoder: learns if it is trainable.
        autoencoders: frozen, by the names that tasks use ("mask", "depth").
        settings: tasks and their shares, prediction type, loss weight, self-conditioning.
        seed: of everything drawn, per (image, visit): task, timestep, self-conditioning, noise.
        features: keeps what a frozen image encoder makes of each image; None: it is run at every visit.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        image_encoder: ImageEncoder,
        autoencoders: Mapping[str, MaskAutoencoder],
        settings: DiffusionProfile,
        *,
        seed: int = 0,
        features: FeatureCache | None = None,
    ) -> None:
        super().__init__({"denoiser": denoiser}, seed=seed)
        self.features = features
        self.frozen = nn.ModuleDict(dict(autoencoders)).requires_grad_(False).eval()
        (self.trained if image_encoder.trainable else self.frozen)["image_encoder"] = image_encoder
        self.tasks = get_tasks(settings.tasks)
        missing = [task.name for task in self.tasks if task.autoencoder not in autoencoders]
        if missing:
            raise InputError(f"the task {missing[0]!r} has no autoencoder here; train it first")
        self.shares = torch.tensor(list(settings.tasks.values())).cumsum(0) / sum(settings.tasks.values())
        self.settings = settings
        self.schedule = NoiseSchedule(settings.prediction_type)

    def train(self, mode: bool = True) -> "DiffusionObjective":
        super().train(mode)
        self.frozen.eval()
        return self

    def _draws(self, batch: Mapping[str, Any], shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Task numbers, timesteps, which samples are self-conditioned, and noise, from the samples' own streams."""
        tasks, timesteps, chosen, noise = [], [], [], []
        for generator in self.generators(batch, "diffusion"):
            task, coin = torch.rand(2, generator=generator)
            tasks.append(int(torch.searchsorted(self.shares, task).clamp(max=len(self.tasks) - 1)))
            chosen.append(bool(coin < self.settings.self_condition_probability))
            power = self.settings.timestep_power.get(self.tasks[tasks[-1]].name, 1.0)
            timesteps.append(draw_timestep(power, generator))
            noise.append(torch.randn(shape, generator=generator))
        return torch.tensor(tasks), torch.tensor(timesteps), torch.tensor(chosen), torch.stack(noise)

    @torch.no_grad()
    def _targets(self, batch: Mapping[str, Any], tasks: Tensor) -> tuple[Tensor, Tensor]:
        """Clean latents and known cells of each sample's own task, in full precision whatever the training's is."""
        latents: dict[int, tuple[Tensor, Tensor]] = {}
        for name in dict.fromkeys(task.autoencoder for task in self.tasks):
            rows = [row for row, number in enumerate(tasks.tolist()) if self.tasks[number].autoencoder == name]
            if rows:
                targets = {n: self.tasks[n].target(batch) for n in {int(tasks[row]) for row in rows}}
                target = torch.stack([targets[int(tasks[row])][row] for row in rows])
                cells = known_cells(target, self.frozen[name].factor)
                with torch.autocast(target.device.type, enabled=False):
                    clean = self.frozen[name].to_latents(target)
                latents |= zip(rows, zip(clean.float(), cells, strict=True), strict=True)
        both = [torch.stack(values) for values in zip(*(latents[row] for row in range(len(tasks))), strict=True)]
        return both[0], both[1]

    def _image_latents(self, batch: Mapping[str, Any], side: int) -> Tensor:
        return encode_batch({**self.frozen, **self.trained}["image_encoder"], batch, side, self.features)

    def forward(self, batch: Mapping[str, Any], totals: Mapping[str, float]) -> dict[str, Tensor]:
        """The loss of a batch: w(t) (prediction - target)^2 over known latent cells, and the error of the affinity."""
        denoiser = self.trained["denoiser"]
        device = batch["image"].device
        side = batch["image"].shape[-1] // self.frozen["mask"].factor
        shape = (denoiser.config.latent_channels, side, side)
        tasks, timesteps, chosen, noise = self._draws(batch, shape)
        clean, known = self._targets(batch, tasks)
        tasks, timesteps, noise = tasks.to(device), timesteps.to(device), noise.to(device)
        noisy = self.schedule.add_noise(clean, noise, timesteps)
        image_latents = self._image_latents(batch, side)
        affinity = None if denoiser.affinity is None else denoiser.affinity(image_latents)
        condition = torch.zeros_like(noisy)
        rows = chosen.nonzero()[:, 0].to(device)
        if len(rows):
            with torch.no_grad():
                inputs = (noisy, image_latents, condition, timesteps, tasks, affinity)
                first = denoiser(*(None if value is None else value[rows] for value in inputs))
                condition[rows] = self.schedule.predicted_clean(first, noisy[rows], timesteps[rows])
        prediction = denoiser(noisy, image_latents, condition, timesteps, tasks, affinity)
        weight = self.schedule.loss_weight(
            timesteps, weighting=self.settings.loss_weight, gamma=self.settings.snr_gamma
        )
        losses = denoising_loss(prediction, self.schedule.target(clean, noise, timesteps), weight, known)
        terms = {"loss": losses.sum() / totals["images"]}
        # what belongs together is told by the instances, so by nothing where these are no task
        taught = "instance" in self.settings.tasks and self.settings.affinity_weight > 0
        if affinity is not None and taught:
            generators = self.generators(batch, "affinity")
            errors = affinity_error(denoiser.affinity, affinity, self.frozen["mask"], batch, generators=generators)
            terms |= {"denoising": terms["loss"], "affinity": errors.sum() / totals["images"]}
            terms["loss"] = terms["denoising"] + self.settings.affinity_weight * terms["affinity"]
        return terms


def draw_timestep(power: float, generator: torch.Generator) -> int:
    """A timestep in 0..999: uniform for `power` 1, else t = 1000 (1 - (1 - u)^power), noisier for larger powers.

    A task whose answer the image alone decides, such as the semantic one, learns from noisy timesteps: at clear ones
    z_t gives the answer away.
    """
    if power == 1:
        return int(torch.randint(1000, (), generator=generator))
    u = float(torch.rand((), generator=generator))
    return min(999, int(1000 * (1 - (1 - u) ** power)))


def train_diffusion(
    profile: Profile,
    dataset: PanopticDataset,
    autoencoders: Mapping[str, MaskAutoencoder],
    folder: str | Path,
    *,
    seed: int = 0,
    start: LDMSegPipeline | None = None,
    features: FeatureCache | None = None,
    trained_on_photographs: bool = False,
    on_log: Callable[[Mapping[str, float]], None] | None = None,
) -> tuple[LDMSegPipeline, TrainingRecord]:
    """Train the profile's diffusion model and save it as pipelines.

    `folder`/pipeline holds the averaged weights where the profile has an EMA, `folder`/pipeline_last the last step's.
    A new affinity is trained beforehand where the profile says so (`folder`/affinity).

    Args:
        profile: the settings.
        dataset: the training split.
        autoencoders: by the names that tasks use.
        folder: gets checkpoints, metrics and pipelines.
        seed: of everything drawn.
        start: a trained pipeline whose denoiser and image encoder are gone on from, by copies; tasks that it does not
            know get new tokens, and affinity pooling is added where it lacks it. None: from the beginning.
        features: of the image encoder, where several trainings share them; None: an own cache, if that pays.
        trained_on_photographs: what the pipeline says of itself.
        on_log: as `ldmseg_lib.training.loop.train`.

    Returns:
        The averaged pipeline (the last step's without EMA), and the record of the training.
    """
    torch.manual_seed(seed)
    for autoencoder in autoencoders.values():
        warn_of_latent_scale(autoencoder)
    if start is None:
        image_encoder = build_image_encoder(profile)
        denoiser = build_denoiser(profile, image_channels=image_encoder.out_channels)
    else:
        image_encoder = copy.deepcopy(start.image_encoder)
        denoiser = start.denoiser.with_tasks(list(profile.diffusion.tasks))
        if profile.diffusion.self_condition_probability > 0:
            denoiser.register_to_config(self_condition=True)
        denoiser.register_to_config(train_time_embedding=profile.denoiser.train_time_embedding)
        denoiser.prepare_unet()
    width = profile.denoiser.affinity_channels
    if start is not None and width is not None:
        denoiser = denoiser.with_affinity(width)
    if profile.diffusion.training.gradient_checkpointing:
        denoiser.unet.enable_gradient_checkpointing()
    training = profile.diffusion.training
    if features is None:
        features = cache_that_pays(image_encoder, dataset, visits=training.steps * training.batch_size)
    before = 0.0
    fresh = start is None or start.denoiser.config.affinity_channels is None
    if denoiser.affinity is not None and fresh and profile.diffusion.affinity_pretraining is not None:
        before = pretrain_affinity(
            profile,
            dataset,
            Path(folder) / "affinity",
            pooling=denoiser.affinity,
            image_encoder=image_encoder,
            autoencoder=autoencoders["mask"],
            seed=seed,
            features=features,
        ).seconds
    objective = DiffusionObjective(
        denoiser, image_encoder, autoencoders, profile.diffusion, seed=seed, features=features
    )
    record, ema = train(
        objective,
        dataset,
        profile.diffusion.training,
        folder,
        seed=seed,
        workers=profile.data.workers,
        title="latent diffusion",
        identity=seen_settings(profile, "diffusion", "denoiser", "image_encoder"),
        on_log=on_log,
    )

    def assembled(source: DiffusionObjective) -> LDMSegPipeline:
        parts = {**source.frozen, **source.trained}
        return LDMSegPipeline(
            autoencoder=autoencoders["mask"],
            denoiser=parts["denoiser"].eval(),
            image_encoder=parts["image_encoder"].eval(),
            depth_autoencoder=autoencoders.get("depth"),
            image_size=profile.data.image_size,
            categories=dataset.categories,
            prediction_type=profile.diffusion.prediction_type,
            sampler=profile.evaluation.sampler,
            round_estimates=profile.evaluation.round_estimates,
            threshold=profile.evaluation.threshold,
            min_area=profile.evaluation.min_area,
            tile_size=profile.evaluation.tile_size,
            trained_on_photographs=trained_on_photographs,
        )

    if ema is None:
        pipeline = assembled(objective)
    else:
        assembled(objective).save_pretrained(Path(folder) / "pipeline_last")
        pipeline = assembled(averaged(objective, ema))
    pipeline.save_pretrained(Path(folder) / "pipeline")
    return pipeline, dataclasses.replace(record, seconds=record.seconds + before)


def averaged(objective: DiffusionObjective, ema: EMAModel) -> DiffusionObjective:
    """A copy of the objective that has the averaged weights."""
    twin = copy.deepcopy(objective)
    ema.copy_to(p for p in twin.trained.parameters() if p.requires_grad)
    return twin
