"""Training the depth autoencoder: the shallow architecture with one channel in and out (supplement A, multi-task).

The supplement names no loss; here it is the mean absolute error over known pixels of relative inverse depth in [-1, 1].
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.profiles import Profile
from ..data.panoptic import PanopticDataset
from ..diffusion.tasks import TASKS
from ..models.autoencoder import MaskAutoencoder, build_autoencoder
from .autoencoder import save_autoencoder
from .loop import TrainingRecord, seen_settings, train
from .objective import ImageObjective


class DepthAutoencoderObjective(ImageObjective):
    """Reconstruction of relative inverse depth at every known pixel.

    Args:
        autoencoder: of one channel; learns.
        seed: of the bottleneck's noise, drawn per (image, visit).
    """

    def __init__(self, autoencoder: MaskAutoencoder, *, seed: int = 0) -> None:
        super().__init__({"autoencoder": autoencoder}, seed=seed)

    def forward(self, batch: Mapping[str, Any], totals: Mapping[str, float]) -> dict[str, Tensor]:
        """The loss of a batch; the decoder sees a sample of the latent distribution, as for masks."""
        autoencoder, target = self.trained["autoencoder"], TASKS["depth"].target(batch)
        distribution = autoencoder.encode(target)
        noise = self.noise_like(distribution.mean, batch, "depth bottleneck")
        found = autoencoder.decode(distribution.sample(noise), (target.shape[1], target.shape[2]))[:, 0]
        return {"loss": depth_errors_of(found, target).sum() / totals["images"]}


def depth_errors_of(
    found: Float[Tensor, "batch height width"], target: Float[Tensor, "batch height width"]
) -> Float[Tensor, "batch"]:
    """Mean absolute error of each map over the pixels whose target is known (not NaN); 0 where none is."""
    known = ~target.isnan()
    errors = (found.float() - target.nan_to_num()).abs() * known
    return errors.sum((1, 2)) / known.sum((1, 2)).clamp(min=1)


def train_depth_autoencoder(
    profile: Profile,
    dataset: PanopticDataset,
    folder: str | Path,
    *,
    seed: int = 0,
    on_log: Callable[[Mapping[str, float]], None] | None = None,
) -> tuple[MaskAutoencoder, TrainingRecord]:
    """Train a depth autoencoder of the profile's shape on `dataset` and save it to `folder`/autoencoder.

    Its latent scale is the profile's, or else brings its training latents to the standard deviation that those of masks
    have: the paper gives all tasks the same factor.

    Raises:
        InputError: the data set was not opened with depth.
        CheckpointError: as `ldmseg_lib.training.loop.train`.
    """
    torch.manual_seed(seed)
    autoencoder = build_autoencoder(profile, scalar=True)
    record, _ = train(
        DepthAutoencoderObjective(autoencoder, seed=seed),
        dataset,
        profile.multitask.depth_autoencoder,
        folder,
        seed=seed,
        workers=profile.data.workers,
        title="depth autoencoder",
        identity=seen_settings(profile, "autoencoder"),
        on_log=on_log,
    )
    save_autoencoder(autoencoder, profile, dataset, folder, target=TASKS["depth"].target)
    return autoencoder, record
