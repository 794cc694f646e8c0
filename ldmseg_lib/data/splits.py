"""The training and the validation split of a data folder, as a profile wants them."""

from pathlib import Path

from ..core.profiles import Profile
from .panoptic import PanopticDataset


def training_split(
    profile: Profile, root: str | Path, *, seed: int = 0, depth: bool = False, split: str = "train"
) -> PanopticDataset:
    """The training images with the paper's augmentation (square resize, horizontal flip) and the profile's filters."""
    data = profile.data
    return PanopticDataset(
        root,
        split,
        image_size=data.image_size,
        crop_size=data.crop_size,
        num_ids=data.num_ids,
        augment=True,
        seed=seed,
        unlabelled=data.unlabelled,
        min_train_area=data.min_train_area,
        depth=depth,
        id_order=data.id_order,
    )


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
    data = profile.data
    return PanopticDataset(
        root,
        split,
        image_size=data.image_size,
        num_ids=data.num_ids,
        seed=seed,
        unlabelled=data.unlabelled,
        depth=depth,
        id_order=data.id_order,
        max_images=max_images,
    )


def validation_crops(
    profile: Profile, root: str | Path, *, seed: int = 0, max_images: int | None = None
) -> PanopticDataset:
    """What a network trained on crops sees of the validation images: each one's central crop, unaugmented.

    For judging what an autoencoder makes of its own inputs; where the profile crops nothing, these are whole images.
    """
    data = profile.data
    return PanopticDataset(
        root,
        "val",
        image_size=data.image_size,
        crop_size=data.crop_size,
        num_ids=data.num_ids,
        seed=seed,
        unlabelled=data.unlabelled,
        id_order=data.id_order,
        max_images=max_images,
    )
