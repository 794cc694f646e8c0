"""The training and the validation split of a data folder, as a profile asks for them."""

from pathlib import Path
from typing import Any

from ..core.profiles import Profile
from .panoptic import PanopticDataset


def training_split(
    profile: Profile, root: str | Path, *, seed: int = 0, depth: bool = False, split: str = "train"
) -> PanopticDataset:
    """The training images with the paper's augmentation (square resize, horizontal flip) and the profile's filters."""
    data = profile.data
    training = {"crop_size": data.crop_size, "augment": True, "min_train_area": data.min_train_area}
    return _split(profile, root, split, seed=seed, depth=depth, **training)


def validation_split(
    profile: Profile,
    root: str | Path,
    *,
    seed: int = 0,
    depth: bool = False,
    max_images: int | None = None,
    split: str = "val",
) -> PanopticDataset:
    """The validation images, whole and unaugmented; the first `max_images` of them, or all."""
    return _split(profile, root, split, seed=seed, depth=depth, max_images=max_images)


def validation_crops(
    profile: Profile, root: str | Path, *, seed: int = 0, max_images: int | None = None
) -> PanopticDataset:
    """The central crop of each validation image, unaugmented, as a network trained on crops sees it.

    To evaluate an autoencoder on its own inputs; whole images where the profile crops nothing.
    """
    return _split(profile, root, "val", seed=seed, crop_size=profile.data.crop_size, max_images=max_images)


def _split(profile: Profile, root: str | Path, split: str, **options: Any) -> PanopticDataset:
    data = profile.data
    shared: dict[str, Any] = {"image_size": data.image_size, "num_ids": data.num_ids, "id_order": data.id_order}
    return PanopticDataset(root, split, unlabelled=data.unlabelled, **shared, **options)
