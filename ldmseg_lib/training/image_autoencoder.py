"""Training a small image autoencoder: diffusers' AutoencoderKL, to reconstruct the pictures and nothing else.

It stands in for Stable Diffusion's VAE where its weights do not fit the pictures: reconstructive features, the same
network smaller, the same files. Of Stable Diffusion's losses it has the squared error and the small KL term, not the
perceptual and the adversarial one.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from ..core.study_sections import ImageAutoencoderProfile
from ..data.panoptic import PanopticDataset, collate
from .loop import TrainingRecord, train
from .objective import ImageObjective


class ImageAutoencoderObjective(ImageObjective):
    """Reconstruction of RGB images from a sample of their latent distribution.

    Args:
        autoencoder: learns.
        kl_weight: of the divergence to a standard normal, summed over a latent's elements, against the squared error
            summed over an image's (Stable Diffusion: 1e-6).
        seed: of the bottleneck's noise, drawn per (image, visit).
    """

    def __init__(self, autoencoder: AutoencoderKL, *, kl_weight: float, seed: int = 0) -> None:
        super().__init__({"autoencoder": autoencoder}, seed=seed)
        self.kl_weight = kl_weight

    def forward(self, batch: Mapping[str, Any], totals: Mapping[str, float]) -> dict[str, Tensor]:
        """Loss terms of a batch, per pixel and channel; images in [-1, 1]."""
        autoencoder, images = self.trained["autoencoder"], batch["image"] * 2 - 1
        posterior = autoencoder.encode(images).latent_dist
        noise = self.noise_like(posterior.mean, batch, "bottleneck")
        decoded = autoencoder.decode(posterior.mean + posterior.std * noise).sample
        error = (decoded.float() - images).square().mean((1, 2, 3)).sum() / totals["images"]
        divergence = posterior.kl().sum() / (totals["images"] * images[0].numel())
        return {"loss": error + self.kl_weight * divergence, "squared_error": error, "divergence": divergence}


def build_image_autoencoder(settings: ImageAutoencoderProfile, *, image_size: int) -> AutoencoderKL:
    """A freshly initialised AutoencoderKL: each width after the first halves the resolution."""
    count = len(settings.channels)
    return AutoencoderKL(
        block_out_channels=tuple(settings.channels),
        down_block_types=("DownEncoderBlock2D",) * count,
        up_block_types=("UpDecoderBlock2D",) * count,
        layers_per_block=settings.layers_per_block,
        latent_channels=settings.latent_channels,
        norm_num_groups=min(16, settings.channels[0] // 2),
        sample_size=image_size,
    )


@torch.no_grad()
def latent_std(autoencoder: AutoencoderKL, dataset: PanopticDataset, *, images: int = 256) -> float:
    """Standard deviation over all elements of the posterior means of the first `images` images."""
    means = []
    for start in range(0, min(images, len(dataset)), 32):
        batch = collate([dataset[i] for i in range(start, min(start + 32, images, len(dataset)))])
        means.append(autoencoder.encode(batch["image"].to(autoencoder.device) * 2 - 1).latent_dist.mean.flatten())
    return torch.cat(means).std().item()


def train_image_autoencoder(
    settings: ImageAutoencoderProfile,
    dataset: PanopticDataset,
    folder: str | Path,
    seed: int = 0,
    *,
    workers: int = 0,
    on_log: Callable[[Mapping[str, float]], None] | None = None,
) -> tuple[Path, TrainingRecord]:
    """Train a small AutoencoderKL on the images of `dataset` and save it.

    Args:
        settings: the profile's `components.image_autoencoder`.
        dataset: a `PanopticDataset`; its labels are not looked at.
        folder: gets checkpoints, metrics and vae/.
        seed: of everything drawn.
        workers: loader processes.
        on_log: as `ldmseg_lib.training.loop.train`.

    Returns:
        `folder`, which holds vae/ as a Stable Diffusion folder does (config.json, diffusion_pytorch_model.safetensors;
        the scaling factor is 1 / std of the latents, as Stable Diffusion's), and the record.
    """
    torch.manual_seed(seed)
    autoencoder = build_image_autoencoder(settings, image_size=dataset[0]["image"].shape[-1])
    record, _ = train(
        ImageAutoencoderObjective(autoencoder, kl_weight=settings.kl_weight, seed=seed),
        dataset,
        settings.training,
        folder,
        seed=seed,
        workers=workers,
        title="image autoencoder",
        identity={name: getattr(settings, name) for name in ("channels", "layers_per_block", "latent_channels")},
        on_log=on_log,
    )
    autoencoder.eval().register_to_config(scaling_factor=1 / latent_std(autoencoder, dataset))
    autoencoder.save_pretrained(Path(folder) / "vae")
    return Path(folder), record
