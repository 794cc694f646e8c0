"""Features of frozen image encoders, computed once for each image and kept in memory."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from .image_encoders import ImageEncoder

LIMIT_BYTES = 512 * 2**20
"""Features of a training that need more are computed at every visit by default."""


class FeatureCache:
    """`encoder.features` of training images, by image and mirroring: one cache for one backbone and one data set.

    A training that visits its images again and again, or several trainings with one backbone, pay for it once.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[int, bool], Tensor] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def __deepcopy__(self, _memo: Mapping[int, Any]) -> Self:
        # copies of a training share what never changes
        return self

    @torch.no_grad()
    def __call__(self, encoder: ImageEncoder, batch: Mapping[str, Any]) -> Float[Tensor, "batch channels rows columns"]:
        """The features of a batch of `PanopticDataset`, for `encoder.project`."""
        keys = list(zip(batch["image_id"], batch["mirrored"], strict=True))
        new = [row for row, key in enumerate(keys) if key not in self._kept]
        if new:
            # a row of the batch's result would keep the whole of it in memory
            for row, features in zip(new, encoder.features(batch["image"][new]).cpu(), strict=True):
                self._kept[keys[row]] = features.clone()
        return torch.stack([self._kept[key] for key in keys]).to(batch["image"].device)


def cache_that_pays(
    encoder: ImageEncoder, dataset: Any, *, visits: int, limit: int = LIMIT_BYTES
) -> FeatureCache | None:
    """A cache for trainings that visit the images of `dataset` so many times in all; None where it would not pay.

    It pays where the features never change, an image looks the same at its next visit (but for mirroring), images are
    visited more than once, and all features fit into `limit` bytes.
    """
    if not encoder.frozen or getattr(dataset, "crops_at_random", True):
        return None
    looks = len(dataset) * (2 if dataset.augment else 1)
    if visits <= looks:
        return None
    with torch.no_grad():
        one = encoder.features(dataset[0]["image"][None].to(next(encoder.parameters()).device))
    return FeatureCache() if one.numel() * one.element_size() * looks <= limit else None
