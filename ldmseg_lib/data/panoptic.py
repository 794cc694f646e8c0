"""COCO panoptic folders as samples for training and as ground truth for evaluation."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, Int, UInt8
from torch.utils.data import Dataset

from ..core.errors import DatasetError, InputError
from ..core.randomness import numpy_generator
from . import transforms
from .annotations import ImageId, Unlabelled, load_annotations
from .layout import find_split
from .pixels import UNKNOWN_DEPTH
from .reader import Decoded, FolderReader, SegmentTable

CACHE_BYTES = 512 * 2**20
"""Splits whose decoded samples need less are kept in memory by default."""


@dataclass(frozen=True)
class GroundTruth:
    """One image as the folder has it: original size, every segment, crowd too, unfiltered.

    `ids` are those of the PNG, 0 where unlabelled; under `unlabelled="background"` these pixels have an unused id and
    are one more segment. `segments` have id, category_id, isthing, iscrowd and area (pixels, measured on the PNG).
    `depth` is inverse depth, NaN where unknown, 0 infinitely far; None unless the dataset was asked for depth.
    """

    image_id: ImageId
    file_name: str
    image: UInt8[np.ndarray, "height width 3"]
    ids: Int[np.ndarray, "height width"]
    segments: list[dict[str, Any]]
    depth: Float32[np.ndarray, "height width"] | None


class PanopticDataset(Dataset):
    """A split of a COCO panoptic folder (see `ldmseg_lib.data.layout` for where its files may lie).

    `dataset[i]`, or `dataset[i, visit]` for the i-th image's visit-th appearance (default 0), is a dict:

    - `image`: float32 [3, H, W] in [0, 1], RGB
    - `ids`: int64 [H, W] in 0..num_ids-1, 0 is void; every segment, thing or stuff, has a fresh random id at each visit
    - `segments`: list of {id (the one in `ids`), category_id, isthing, iscrowd, area}, those with pixels in `ids`, area
      in pixels of `ids`
    - `semantic`: int64 [H, W], class index 1..C, 0 is void
    - `depth`: float32 [H, W] inverse depth, NaN unknown, 0 infinitely far; None without `depth=True`
    - `image_id`, `file_name`, `segments_file_name`, `size` (original height, width), `visit`
    - `mirrored`: whether left and right are exchanged
    - `dropped_segments`: how many segments, the smallest, are void in `ids` because there are more than num_ids - 1

    Crop, resize, mirror, in this order; everything random comes from (seed, image id, visit) alone, so samples do not
    depend on batches, workers or processes.

    Args:
        root: the data folder.
        split: "train", "val", or any name for which the folder has panoptic_<split>.json.
        image_size: side in pixels of the square that samples are resized to (the aspect is not kept); None keeps sizes.
        crop_size: side in pixels, at original resolution, of a square crop before the resize: random with `augment`,
            else central; padded with void, black and unknown depth where the image is smaller.
        num_ids: number of ids, void included.
        augment: training samples: mirrored with probability 0.5 (supplement A); crowd segments and
            those under `min_train_area` pixels at original resolution are void, images with nothing else are left out.
        seed: of the ids, mirrors and crops.
        unlabelled: what 0 in the PNGs means: "void" (unknown) or "background" (one stuff segment of an extra category);
            None takes `info.unlabelled` of the JSON, or "void".
        depth: read depth PNGs too.
        id_order: "random", or "position": ids 1, 2, 3, ... in the order of the segments' centroids' x + y/4.
        max_images: only the first so many images.
        cache: keep decoded samples in memory (each process its own); None: where they need less than 512 MiB.

    Raises:
        DatasetError: a fault in the folder, naming file, image and segment: at construction for the JSON, on access for
            an image. `python -m ldmseg_lib.data.check` lists all faults at once.

    Example:
        >>> from ldmseg_lib import PanopticDataset
        >>> from ldmseg_lib.data.scenes.dataset import write_dataset
        >>> folder = write_dataset("scenes", size=32, train_scenes=2, val_scenes=1, workers=1, progress=False)
        >>> dataset = PanopticDataset(folder, "train", num_ids=16)
        >>> sample = dataset[0]
        >>> len(dataset), sample["image"].shape, sample["ids"].shape
        (2, torch.Size([3, 32, 32]), torch.Size([32, 32]))
    """

    def __init__(
        self,
        root: str | os.PathLike,
        split: str,
        *,
        image_size: int | None = None,
        crop_size: int | None = None,
        num_ids: int = 256,
        augment: bool = False,
        seed: int = 0,
        unlabelled: Unlabelled | None = None,
        min_train_area: int = 10,
        depth: bool = False,
        id_order: Literal["random", "position"] = "random",
        max_images: int | None = None,
        cache: bool | None = None,
    ) -> None:
        _check_choice("unlabelled", unlabelled, (None, "void", "background"))
        _check_choice("id_order", id_order, ("random", "position"))
        for name, value, least in (
            ("image_size", image_size, 1),
            ("crop_size", crop_size, 1),
            ("num_ids", num_ids, 2),
            ("max_images", max_images, 1),
        ):
            if value is not None and value < least:
                raise InputError(f"{name} is {value}; it must be at least {least}")
        self.files = find_split(root, split)
        self.split, self.seed = split, int(seed)
        self.image_size, self.crop_size, self.num_ids = image_size, crop_size, num_ids
        self.augment, self.min_train_area, self.id_order = augment, min_train_area, id_order
        self._reader = FolderReader(self.files, load_annotations(self.files), unlabelled=unlabelled, depth=depth)
        self._annotations = self._reader.annotations
        self.unlabelled: Unlabelled = self._reader.unlabelled
        self.categories: list[dict[str, Any]] = self._reader.categories
        self.class_index: dict[int, int] = {category["id"]: k for k, category in enumerate(self.categories, start=1)}
        self.num_classes: int = len(self.categories)
        self._is_thing: dict[int, int] = {category["id"]: int(category["isthing"]) for category in self.categories}
        self._places = self._choose_images(max_images)
        self._cache: dict[int, Decoded] | None = {} if self._wants_cache(cache) else None

    @property
    def image_ids(self) -> list[ImageId]:
        """The ids of the images, in the order of `dataset[0]`, `dataset[1]`, ..."""
        return self._annotations.image_ids[self._places].tolist()

    @property
    def has_depth(self) -> bool:
        """Whether the folder has depth maps (they are read with `depth=True`)."""
        return self._annotations.depth_scale is not None

    @property
    def notes(self) -> list[str]:
        """What a table of results on this split has to say for itself."""
        if self.unlabelled == "void" and all(category["isthing"] for category in self.categories):
            return ["Only things are labelled and the rest is void, where predictions are forgiven: PQ flatters."]
        return []

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        index, visit = key if isinstance(key, tuple) else (key, 0)
        place = self._place(index)
        decoded = self._prepared(place)
        stream = (self._annotations.image_id(place), int(visit))
        if self.crops_at_random:
            decoded = self._resized(self._cropped(decoded, numpy_generator(self.seed, "crop", *stream)))
        mirrored = self.augment and numpy_generator(self.seed, "mirror", *stream).random() < 0.5
        if mirrored:
            decoded = decoded.map(transforms.mirror, transforms.mirror, transforms.mirror)
        return self._sample(place, decoded, stream) | {"mirrored": bool(mirrored)}

    def ground_truth(self, index: int) -> GroundTruth:
        """The image at `index` for evaluation: whole, at its original size, no segment left out."""
        place = self._place(index)
        decoded = self._reader.read(place)
        table = self._reader.table(place, len(decoded.areas))
        return GroundTruth(
            image_id=self._annotations.image_id(place),
            file_name=str(self._annotations.image_files[place]),
            image=decoded.image,
            ids=table.ids[decoded.index],
            segments=[self._segment(table, k, int(table.ids[k]), decoded.areas) for k in range(1, len(table.ids))],
            depth=None if decoded.depth is None else self._reader.inverse_depth(decoded.depth),
        )

    def _place(self, index: int) -> int:
        """The place in the annotations of the image at `index`."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return int(self._places[index])

    def _choose_images(self, max_images: int | None) -> np.ndarray:
        annotations = self._annotations
        places = np.arange(len(annotations))
        if self.augment and self.unlabelled == "void":
            usable = np.concatenate([[0], np.cumsum(~annotations.crowd)])[annotations.offsets]
            places = places[np.diff(usable) > 0]
        if not len(places):
            raise DatasetError(
                f"{self.files.annotations}: no image has a segment that is not crowd; there is nothing to train on"
            )
        return places[:max_images]

    @property
    def crops_at_random(self) -> bool:
        """Whether each visit of an image shows another part of it."""
        return self.augment and self.crop_size is not None

    def _wants_cache(self, cache: bool | None) -> bool:
        if cache is not None:
            return cache
        sides = self._annotations.sizes[self._places].astype(np.float64)
        if not self.crops_at_random and (self.image_size or self.crop_size):
            sides[:] = self.image_size or self.crop_size
        return float(sides.prod(axis=1).sum()) * (6 if self._reader.depth_folder else 4) < CACHE_BYTES

    def _prepared(self, place: int) -> Decoded:
        """The decoded image after the transforms that are the same at every visit."""
        if self._cache is not None and place in self._cache:
            return self._cache[place]
        decoded = self._reader.read(place)
        if not self.crops_at_random:
            decoded = self._resized(self._cropped(decoded, None))
            # a view of a crop would keep the whole image in memory
            decoded = decoded.map(np.array, np.array, np.array) if self._cache is not None else decoded
        if self._cache is not None:
            self._cache[place] = decoded
        return decoded

    def _cropped(self, decoded: Decoded, generator: np.random.Generator | None) -> Decoded:
        size = self.crop_size
        if size is None:
            return decoded
        height, width = decoded.index.shape
        corner = transforms.crop_corner((height, width), size, generator)
        return decoded.map(
            lambda image: transforms.crop(image, corner, size),
            lambda index: transforms.crop(index, corner, size),
            lambda depth: transforms.crop(depth, corner, size, fill=UNKNOWN_DEPTH),
        )

    def _resized(self, decoded: Decoded) -> Decoded:
        size = self.image_size
        if size is None:
            return decoded
        return decoded.map(
            lambda image: transforms.resize_image(image, size),
            lambda index: transforms.resize_nearest(index, size),
            lambda depth: transforms.resize_nearest(depth, size),
        )

    def _sample(self, place: int, decoded: Decoded, stream: tuple[ImageId, int]) -> dict[str, Any]:
        table = self._reader.table(place, len(decoded.areas))
        visible = np.bincount(decoded.index.ravel(), minlength=len(decoded.areas))
        labelled = np.ones(len(visible), dtype=bool)
        if self.augment:
            labelled = ~table.crowd & (decoded.areas >= self.min_train_area)
        labelled[0] = False
        present = labelled & (visible > 0)
        kept = transforms.largest(visible, present, self.num_ids - 1)
        ids = self._new_ids(decoded.index, np.where(kept, visible, 0), stream)
        classes = np.array([self.class_index.get(category, 0) for category in table.category_ids.tolist()], np.int64)
        image = np.ascontiguousarray(decoded.image.transpose(2, 0, 1))
        depth = None if decoded.depth is None else self._reader.inverse_depth(decoded.depth)
        return {
            "image": torch.from_numpy(image).to(torch.float32).div_(255),
            "ids": torch.from_numpy(ids[decoded.index]),
            "segments": [self._segment(table, k, int(ids[k]), visible) for k in np.flatnonzero(kept).tolist()],
            "semantic": torch.from_numpy(np.where(labelled, classes, 0)[decoded.index]),
            "depth": None if depth is None else torch.from_numpy(depth),
            "image_id": stream[0],
            "file_name": str(self._annotations.image_files[place]),
            "segments_file_name": str(self._annotations.segment_files[place]),
            "size": tuple(self._annotations.sizes[place].tolist()),
            "visit": stream[1],
            "dropped_segments": int(present.sum() - kept.sum()),
        }

    def _new_ids(self, index: np.ndarray, areas: np.ndarray, stream: tuple[ImageId, int]) -> np.ndarray:
        """The id at this visit of each entry of the image's table; 0 for those without area."""
        count = int((areas > 0).sum())
        ids = np.zeros(len(areas), dtype=np.int64)
        if self.id_order == "position":
            ids[transforms.position_order(index, areas)[:count]] = np.arange(1, count + 1)
        else:
            ids[areas > 0] = transforms.draw_ids(count, self.num_ids, numpy_generator(self.seed, "ids", *stream))
        return ids

    def _segment(self, table: SegmentTable, entry: int, segment_id: int, areas: np.ndarray) -> dict[str, Any]:
        category_id = int(table.category_ids[entry])
        return {
            "id": segment_id,
            "category_id": category_id,
            "isthing": self._is_thing[category_id],
            "iscrowd": int(table.crowd[entry]),
            "area": int(areas[entry]),
        }


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch of samples: image, ids, semantic and depth stacked (depth None where samples have none), the rest lists.

    Raises:
        InputError: the samples differ in size; give the dataset an image_size.
    """
    batch: dict[str, Any] = {key: [sample[key] for sample in samples] for key in samples[0]}
    shapes = {tuple(ids.shape) for ids in batch["ids"]}
    if len(shapes) > 1:
        raise InputError(f"samples of sizes {sorted(shapes)} cannot be one batch; give the dataset an image_size")
    for key in ("image", "ids", "semantic"):
        batch[key] = torch.stack(batch[key])
    batch["depth"] = None if any(depth is None for depth in batch["depth"]) else torch.stack(batch["depth"])
    return batch


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} is {value!r}; choose from {', '.join(repr(choice) for choice in choices)}")
