"""Learning what belongs together: the image encoder and the affinity, by how well pooling alone denoises.

No label takes part but the mask latents that the diffusion model learns from. Beforehand, a few hundred such steps cost
little, for there is no UNet in them; in the diffusion training the same error is added to the loss.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..core.profiles import Profile
from ..data.panoptic import PanopticDataset
from ..diffusion.tasks import TASKS, known_cells
from ..models.affinity import Affinity, AffinityPooling
from ..models.autoencoder import MaskAutoencoder
from ..models.feature_cache import FeatureCache
from ..models.image_encoders import ImageEncoder
from .loop import TrainingRecord, seen_settings, train
from .objective import ImageObjective

_DRAWS = 4  # timesteps a sample; the noise itself is averaged over exactly


def affinity_error(
    pooling: AffinityPooling,
    affinity: Affinity,
    autoencoder: MaskAutoencoder,
    batch: Mapping[str, Any],
    *,
    generators: Sequence[torch.Generator],
) -> Float[Tensor, "batch"]:
    """Each image's `AffinityPooling.expected_error` for its instance map, the mean over known cells.

    Args:
        pooling: made `affinity` of the images' features.
        generators: one an image, for its timesteps.
    """
    ids = TASKS["instance"].target(batch)
    with torch.no_grad(), torch.autocast(ids.device.type, enabled=False):
        clean, known = autoencoder.to_latents(ids).float(), known_cells(ids, autoencoder.factor).flatten(1)
    timesteps = torch.stack([torch.randint(1000, (_DRAWS,), generator=generator) for generator in generators])
    errors = pooling.expected_error(affinity, clean, timesteps.to(clean.device))
    return (errors * known).sum(1) / known.sum(1).clamp(min=1)


class AffinityObjective(ImageObjective):
    """The affinity of image features by the denoising error of pooling alone.

    Args:
        pooling: learns.
        image_encoder: learns if it is trainable.
        autoencoder: of the masks, frozen.
        seed: of the timesteps.
        features: as of `DiffusionObjective`.
    """

    def __init__(
        self,
        pooling: AffinityPooling,
        image_encoder: ImageEncoder,
        autoencoder: MaskAutoencoder,
        *,
        seed: int,
        features: FeatureCache | None = None,
    ) -> None:
        super().__init__({"affinity": pooling}, seed=seed)
        self.frozen = nn.ModuleDict({"mask": autoencoder})
        (self.trained if image_encoder.trainable else self.frozen)["image_encoder"] = image_encoder
        self.frozen.requires_grad_(False).eval()
        self.features = features

    def train(self, mode: bool = True) -> "AffinityObjective":
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, batch: Mapping[str, Any], totals: Mapping[str, float]) -> dict[str, Tensor]:
        """The loss of a batch."""
        encoder = {**self.frozen, **self.trained}["image_encoder"]
        side = batch["image"].shape[-1] // self.frozen["mask"].factor
        latents = encode_batch(encoder, batch, side, self.features)
        pooling = self.trained["affinity"]
        generators = self.generators(batch, "affinity")
        errors = affinity_error(pooling, pooling(latents), self.frozen["mask"], batch, generators=generators)
        return {"loss": errors.sum() / totals["images"]}


def encode_batch(
    encoder: ImageEncoder | nn.Module, batch: Mapping[str, Any], side: int, features: FeatureCache | None
) -> Tensor:
    """The image latents [batch, channels, side, side] of a batch; `features` are kept ones of a frozen encoder."""
    if features is None:
        return encoder(batch["image"], (side, side))
    return encoder.project(features(encoder, batch), (side, side))  # type: ignore[operator, arg-type]


def pretrain_affinity(
    profile: Profile,
    dataset: PanopticDataset,
    folder: str | Path,
    *,
    pooling: AffinityPooling,
    image_encoder: ImageEncoder,
    autoencoder: MaskAutoencoder,
    seed: int,
    features: FeatureCache | None = None,
) -> TrainingRecord:
    """Train `pooling` and `image_encoder`, in place, by the profile's `diffusion.affinity_pretraining`."""
    settings = profile.diffusion.affinity_pretraining
    assert settings is not None  # else there is nothing to do
    record, _ = train(
        AffinityObjective(pooling, image_encoder, autoencoder, seed=seed, features=features),
        dataset,
        settings,
        folder,
        seed=seed,
        workers=profile.data.workers,
        title="affinity",
        identity=seen_settings(profile, "denoiser", "image_encoder"),
    )
    return record
