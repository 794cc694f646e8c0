"""Predictions of a pipeline, and their way to disk and back in COCO's panoptic format."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Int
from torch import Tensor

from ..core.errors import InputError
from ..core.files import inside, read_json, replacing, write_text
from ..data.pixels import ID_LIMIT, read_ids
from ..data.values import as_flag, is_image_id


@dataclass(frozen=True)
class DepthConvention:
    """What the numbers of a predicted depth map mean: relative inverse depth, as in its targets (supplement A).

    `nearest` and `farthest` are the values of an image's nearest and farthest pixel. True inverse depth is s * map + b,
    with s > 0 and b of each image its own: `evaluation.depth_metrics.align_scale_and_shift` fits them where some true
    depth is known, and depth is 1 / (s * map + b).
    """

    quantity: str = "inverse depth"
    alignment: str = "scale and shift of each image, by least squares in inverse depth"
    nearest: float = 1.0
    farthest: float = -1.0


_LISTS = ("ids", "segments", "instance_ids", "semantic", "depth", "agreement")


@dataclass
class PanopticOutput:
    """Predictions, lists with one entry an image, at the images' own sizes.

    `ids`: int32 [H, W], 0 where there is no segment. `segments`: dicts of id, category_id (None without the semantic
    task), isthing, area. `instance_ids`: int32 [H, W], the same before classes were voted and equal stuff was merged.
    `semantic`: int32 [H, W] class indices, 0 is void, or None. `depth`: float32 [H, W] relative inverse depth in about
    [-1, 1] (see `depth_convention`), or None. `maps`: by name, such lists of further tasks: int32 [H, W] labels from 1,
    or float32 [H, W] values. `agreement`: float32 [H, W], where several samples were taken the share of them in [0, 1]
    that says what `instance_ids` says, else empty.

    Example:
        >>> import numpy as np
        >>> from ldmseg_lib.pipeline import PanopticOutput
        >>> ids = np.zeros((4, 6), np.int32)
        >>> ids[:, :2] = 7
        >>> segment = {"id": 7, "category_id": 1, "isthing": 1, "area": 8}
        >>> categories = [{"id": 1, "name": "ball", "isthing": 1}]
        >>> output = PanopticOutput(ids=[ids], segments=[[segment]], categories=categories)
        >>> output.save_coco("predictions.json", "predictions")
        >>> loaded = PanopticOutput.load_coco("predictions.json", "predictions")
        >>> np.array_equal(loaded.ids[0], ids)
        True
    """

    ids: list[np.ndarray] = field(default_factory=list)
    segments: list[list[dict[str, Any]]] = field(default_factory=list)
    instance_ids: list[np.ndarray] = field(default_factory=list)
    semantic: list[np.ndarray | None] = field(default_factory=list)
    depth: list[np.ndarray | None] = field(default_factory=list)
    categories: list[dict[str, Any]] = field(default_factory=list)
    maps: dict[str, list[np.ndarray]] = field(default_factory=dict)
    agreement: list[np.ndarray] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def extend(self, other: "PanopticOutput") -> None:
        """Append the images of `other`."""
        for name in _LISTS:
            getattr(self, name).extend(getattr(other, name))
        for name, maps in other.maps.items():
            self.maps.setdefault(name, []).extend(maps)
        self.categories = other.categories or self.categories

    def entry(self, index: int) -> "PanopticOutput":
        """The prediction of one image."""
        lists = {name: getattr(self, name)[index : index + 1] for name in _LISTS}
        maps = {name: maps[index : index + 1] for name, maps in self.maps.items()}
        return PanopticOutput(**lists, maps=maps, categories=self.categories)

    @property
    def depth_convention(self) -> DepthConvention | None:
        """What the numbers in `depth` mean and how they are aligned with true depth; None where there is no depth."""
        return DepthConvention() if any(depth is not None for depth in self.depth) else None

    def save_coco(
        self,
        json_path: str | Path,
        png_folder: str | Path,
        *,
        image_ids: Sequence[int | str] | None = None,
        file_names: Sequence[str] | None = None,
    ) -> None:
        """Write the predictions in COCO's panoptic format: one id PNG an image and one JSON.

        Args:
            json_path: the JSON; its annotations name the PNGs.
            png_folder: gets the PNGs.
            image_ids: the images' ids, numbers or texts; 0, 1, 2, ... by default.
            file_names: the PNGs' names, which end in .png; the image id, a number padded to 12 digits, by default.

        Raises:
            InputError: not as many image ids or file names as images, one of them is used twice or cannot be used, or a
                map is no id map; nothing is written then.
        """
        image_ids = list(range(len(self))) if image_ids is None else [_plain(image_id) for image_id in image_ids]
        for image_id in image_ids:
            if not is_image_id(image_id):
                raise InputError(f"image id {image_id!r} must be an integer of at least 0, or a text")
        if file_names is None:
            file_names = [f"{i}.png" if isinstance(i, str) else f"{i:012d}.png" for i in image_ids]
        file_names = [str(name) for name in file_names]
        if not len(self) == len(image_ids) == len(file_names):
            raise InputError(
                f"{len(image_ids)} image ids and {len(file_names)} file names for {len(self)} images; give one each"
            )
        for values, what in ((image_ids, "image id"), (list(map(os.path.normpath, file_names)), "file name")):
            twice = [value for value, count in Counter(values).items() if count > 1]
            if twice:
                raise InputError(f"{what} {twice[0]!r} is given to more than one image; give each its own")
        annotations = []
        for ids, segments, image_id, name in zip(self.ids, self.segments, image_ids, file_names, strict=True):
            _check_png_name(png_folder, name)
            _check_ids(ids, f"image id {image_id}")
            try:
                info = [{key: s[key] for key in ("id", "category_id", "area")} | {"iscrowd": 0} for s in segments]
            except KeyError as error:
                raise InputError(f"image id {image_id}: a segment has no {error}") from None
            annotations.append({"image_id": image_id, "file_name": name, "segments_info": info})
        try:
            text = json.dumps(
                {"annotations": annotations, "categories": self.categories}, indent=2, allow_nan=False, default=_plain
            )
        except (TypeError, ValueError) as error:
            raise InputError(f"segments or categories cannot be written as JSON ({error})") from None
        for ids, name in zip(self.ids, file_names, strict=True):
            with replacing(Path(png_folder) / name) as temporary:
                write_id_png(temporary, ids)
        write_text(json_path, text + "\n")

    @classmethod
    def load_coco(cls, json_path: str | Path, png_folder: str | Path) -> "PanopticOutput":
        """Predictions in COCO's panoptic format, ours or another tool's, in the order of the JSON.

        Areas are counted on the PNGs. The format holds neither semantic map nor depth, and the final ids alone.

        Raises:
            InputError: the JSON or a PNG is missing or of another form, or a file name leaves the folder.
        """
        found = read_json(json_path)
        entries = found.get("annotations") if isinstance(found, dict) else None
        if not isinstance(entries, list):
            raise InputError(f"{json_path}: no list `annotations`; this is not COCO's panoptic format")
        output = cls(categories=found.get("categories", []))
        for position, entry in enumerate(entries):
            try:
                name, segments = entry["file_name"], [dict(segment) for segment in entry["segments_info"]]
                segment_ids = np.array([segment["id"] for segment in segments], np.int64)
                categories = {category["id"]: category for category in output.categories}
                path = inside(png_folder, name)
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise InputError(f"{json_path}: annotations[{position}] cannot be used ({error})") from None
            ids = read_ids(path, None, segment_ids).astype(np.int32)
            areas = dict(zip(*(part.tolist() for part in np.unique(ids, return_counts=True)), strict=True))
            for segment in segments:
                category = categories.get(segment.get("category_id"), {})
                segment.update(area=areas.get(segment["id"], 0), isthing=as_flag(category.get("isthing")))
            output.ids.append(ids)
            output.instance_ids.append(ids)
            output.segments.append(segments)
            output.semantic.append(None)
            output.depth.append(None)
        return output


def _plain(value: Any) -> Any:
    """NumPy's and torch's scalars and arrays as Python's own numbers and lists; anything else as it is."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray | Tensor) else value


def _check_png_name(folder: str | Path, name: str) -> None:
    if Path(name).suffix.lower() != ".png":
        raise InputError(f"file name {name!r} must end in .png: another format, such as JPEG, does not keep ids")
    inside(folder, name)


def _check_ids(ids: Any, where: str) -> None:
    if not isinstance(ids, np.ndarray) or ids.ndim != 2 or ids.dtype.kind not in "iu" or not ids.size:
        raise InputError(f"{where}: ids must be a NumPy array of integers [height, width]")
    if ids.min() < 0 or ids.max() >= ID_LIMIT:
        raise InputError(
            f"{where}: ids from {ids.min()} to {ids.max()} do not fit a PNG, which has 0 to {ID_LIMIT - 1}"
        )


def write_id_png(path: str | Path, ids: Int[np.ndarray, "height width"]) -> None:
    """Write an id map as COCO does: id = R + 256 G + 65536 B."""
    wide = ids.astype(np.uint32)
    rgb = np.stack([wide & 255, (wide >> 8) & 255, (wide >> 16) & 255], axis=-1).astype(np.uint8)
    if not cv2.imwrite(str(path), rgb[..., ::-1]):
        raise OSError(f"{path}: the PNG could not be written")
