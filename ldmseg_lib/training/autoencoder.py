"""Training the mask autoencoder: cross-entropy + BCE + Dice at sampled points (paper, section 3.1)."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import InputError
from ..core.profiles import Profile
from ..data.panoptic import PanopticDataset, collate
from ..diffusion.losses import point_cross_entropy, point_mask_losses, segment_index
from ..models.autoencoder import MaskAutoencoder, build_autoencoder
from .loop import TrainingRecord, seen_settings, train
from .objective import ImageObjective

# What the standard deviation of scaled latents may be without a warning; the noise that they are mixed with has 1.
LATENT_STD_RANGE = (0.5, 2.0)


class AutoencoderObjective(ImageObjective):
    """Reconstruction of id maps: at random an image's instance map (ids permuted) or its semantic map (ids fixed).

    Args:
        autoencoder: learns.
        num_points: sampled points of each loss.
        semantic_fraction: share of the samples whose target is the semantic map.
        seed: of the choice, the bottleneck's noise and the points, each drawn per (image, visit).
    """

    def __init__(
        self, autoencoder: MaskAutoencoder, *, num_points: int, semantic_fraction: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__({"autoencoder": autoencoder}, seed=seed)
        self.num_points, self.semantic_fraction = num_points, semantic_fraction

    def target(self, batch: Mapping[str, Any]) -> Tensor:
        """The id map that each sample is to reproduce, [batch, height, width]."""
        draws = torch.stack([torch.rand((), generator=g) for g in self.generators(batch, "map")])
        semantic = (draws < self.semantic_fraction).to(batch["ids"].device)
        return torch.where(semantic[:, None, None], batch["semantic"], batch["ids"])

    def normalisers(self, batch: Mapping[str, Any]) -> dict[str, float]:
        """Images, and segments of their targets."""
        return super().normalisers(batch) | {"segments": len(segment_index(self.target(batch))[0])}

    def forward(self, batch: Mapping[str, Any], totals: Mapping[str, float]) -> dict[str, Tensor]:
        """Loss terms of a batch; the decoder sees a sample of the latent distribution."""
        autoencoder, target = self.trained["autoencoder"], self.target(batch)
        distribution = autoencoder.encode(target)
        logits = autoencoder.decode(distribution.sample(self.noise_like(distribution.mean, batch, "bottleneck")))
        settings: dict[str, Any] = {"num_points": self.num_points, "generators": self.generators(batch, "points")}
        cross_entropy = point_cross_entropy(logits, target, **settings).sum() / totals["images"]
        bce, dice = (term / max(1.0, totals["segments"]) for term in point_mask_losses(logits, target, **settings))
        return {"loss": cross_entropy + bce + dice, "cross_entropy": cross_entropy, "bce": bce, "dice": dice}


def id_maps(batch: Mapping[str, Any]) -> Tensor:
    """The id maps [batch, height, width] of a batch."""
    return batch["ids"]


@torch.no_grad()
def measure_latent_std(
    autoencoder: MaskAutoencoder,
    dataset: PanopticDataset,
    *,
    images: int = 512,
    target: Callable[[Mapping[str, Any]], Tensor] = id_maps,
) -> float:
    """Standard deviation over all elements of the unscaled latents of the first `images` images.

    Args:
        autoencoder: any.
        dataset: what it was trained on.
        images: how many.
        target: the maps [batch, height, width] of a batch that the autoencoder encodes.
    """
    device, total, squares, count = autoencoder.device, 0.0, 0.0, 0
    for start in range(0, min(images, len(dataset)), 32):
        batch = collate([dataset[i] for i in range(start, min(start + 32, images, len(dataset)))])
        mean = autoencoder.encode(target(batch).to(device)).mean.double()
        total, squares, count = total + mean.sum().item(), squares + mean.square().sum().item(), count + mean.numel()
    return (squares / count - (total / count) ** 2) ** 0.5


def train_autoencoder(
    profile: Profile,
    dataset: PanopticDataset,
    folder: str | Path,
    *,
    seed: int = 0,
    on_log: Callable[[Mapping[str, float]], None] | None = None,
) -> tuple[MaskAutoencoder, TrainingRecord]:
    """Train the profile's autoencoder on `dataset` and save it to `folder`/autoencoder.

    Its latent scale is the profile's, or else 1 / std of the training latents, which then have unit variance.

    Raises:
        InputError: semantic maps are to be learned and there are more classes than ids.
        CheckpointError: as `ldmseg_lib.training.loop.train`.
    """
    settings = profile.autoencoder
    classes = getattr(dataset, "num_classes", 0)
    if settings.semantic_fraction > 0 and classes >= profile.data.num_ids:
        raise InputError(
            f"the data set has {classes} classes, for which data.num_ids {profile.data.num_ids} is too few; set it to"
            f" at least {classes + 1}, or autoencoder.semantic_fraction to 0"
        )
    torch.manual_seed(seed)
    autoencoder = build_autoencoder(profile)
    objective = AutoencoderObjective(
        autoencoder, num_points=settings.num_points, semantic_fraction=settings.semantic_fraction, seed=seed
    )
    record, _ = train(
        objective,
        dataset,
        settings.training,
        folder,
        seed=seed,
        workers=profile.data.workers,
        title="mask autoencoder",
        identity=seen_settings(profile, "autoencoder"),
        on_log=on_log,
    )
    save_autoencoder(autoencoder, profile, dataset, folder)
    return autoencoder, record


def save_autoencoder(
    autoencoder: MaskAutoencoder,
    profile: Profile,
    dataset: PanopticDataset,
    folder: str | Path,
    *,
    target: Callable[[Mapping[str, Any]], Tensor] = id_maps,
) -> None:
    """Give a trained autoencoder the profile's latent scale, or a measured one, and save it to `folder`/autoencoder.

    The latents' standard deviation is measured and recorded in its configuration in any case; a warning says where a
    fixed scale leaves it far from 1.
    """
    settings = profile.autoencoder
    autoencoder.eval()
    std = measure_latent_std(autoencoder, dataset, target=target)
    autoencoder.register_to_config(latent_std=std)
    if settings.latent_scale is None:
        autoencoder.register_to_config(latent_scale=settings.latent_std / std)
    elif settings.latent_scale != 1:  # 1 leaves them as they are, where nothing is diffused
        warn_of_latent_scale(autoencoder)
    autoencoder.save_pretrained(Path(folder) / "autoencoder")


def warn_of_latent_scale(autoencoder: MaskAutoencoder) -> None:
    """Warn where scaled latents have a standard deviation far from 1, the noise's: diffusion would be mistrained."""
    scale, std = autoencoder.config.latent_scale, autoencoder.config.latent_std
    if std is None or LATENT_STD_RANGE[0] <= scale * std <= LATENT_STD_RANGE[1]:
        return
    advice = f"set autoencoder.latent_scale to {1 / std:.3g}, or to null to have it measured" if std else "train longer"
    warnings.warn(
        f"the mask latents' standard deviation is {std:.3g}, with latent_scale {scale:.5g} that of z_0 is"
        f" {scale * std:.3g}, while the noise schedule is made for 1; {advice}",
        stacklevel=2,
    )
