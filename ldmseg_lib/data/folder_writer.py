"""Writing a split of a COCO panoptic folder from photographs and their segments, whatever format those came in."""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Int, Int32
from tqdm.auto import tqdm

from ..core.errors import DatasetError
from ..core.files import read_json, replacing, write_bytes, write_json
from .annotations import Unlabelled
from .pixels import ID_LIMIT, read_image
from .segment_maps import segment_boxes

_KEPT_AS_THEY_ARE = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Instance:
    """One segment of a photograph, before overlaps are settled.

    `pixels` are places in the flattened image, as `np.flatnonzero` gives them: a thousand full masks of a large image
    would fill the memory.
    """

    pixels: Int[np.ndarray, " pixels"]
    category_id: int
    iscrowd: int = 0


@dataclass(frozen=True)
class LabelledImage:
    """A photograph to be written; its instances are read when its turn comes.

    Args:
        path: of the photograph.
        name: its file name in the new folder, with or without subfolders.
        image_id: its number.
        read: called with (height, width); returns the instances.
        size: (height, width) if the annotations say it; the photograph must have it.
        record: what else the JSON is to say of it, such as its licence.
    """

    path: Path
    name: str
    image_id: int
    read: Callable[[tuple[int, int]], list[Instance]]
    size: tuple[int, int] | None = None
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Written:
    """What `write_split` did: numbers of images and segments, and of segments that others cover entirely."""

    images: int
    segments: int
    covered: int


def write_split(
    target: str | os.PathLike,
    split: str,
    images: Iterable[LabelledImage],
    categories: Sequence[Mapping[str, Any]],
    *,
    unlabelled: Unlabelled,
    info: Mapping[str, Any] | None = None,
    workers: int = 1,
    progress: bool = True,
) -> Written:
    """Write images/<split>/, panoptic_<split>/ and, last, panoptic_<split>.json into `target`.

    Panoptic segments do not overlap: where instances do, the smaller one keeps the pixels, and crowd regions give way
    to everything. One that is covered entirely is left out and counted.

    Args:
        target: the data folder; it may hold other splits, of the same categories and meaning of 0.
        split: "train", "val", ...
        images: what to write.
        categories: COCO category dicts with id, name and isthing.
        unlabelled: what a pixel without segment means.
        info: further entries of the JSON's `info`.
        workers: threads.
        progress: show a progress bar.

    Raises:
        DatasetError: `target` has the split already or another data set's; a photograph or annotation is faulty; there
            is no image.
    """
    target, images = Path(target), list(images)
    _refuse_other(target, split, categories, unlabelled)
    if not images:
        raise DatasetError(f"{target}: there is no image to write for split {split!r}")
    png_names = _png_names(images)
    entries: list[tuple[dict[str, Any], dict[str, Any], int]] = []

    def write(job: tuple[LabelledImage, str]) -> tuple[dict[str, Any], dict[str, Any], int]:
        return _write_image(target, split, *job)

    with (
        ThreadPoolExecutor(max(1, workers)) as pool,
        tqdm(total=len(images), desc=f"converting {split}", unit="image", disable=not progress) as bar,
    ):
        try:
            for entry in pool.map(write, zip(images, png_names, strict=True)):
                entries.append(entry)
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    document = {
        "info": {"unlabelled": unlabelled, **(info or {})},
        "images": [image for image, _, _ in entries],
        "annotations": [annotation for _, annotation, _ in entries],
        "categories": [dict(category) for category in categories],
    }
    write_json(target / f"panoptic_{split}.json", document, indent=None)
    segments = sum(len(annotation["segments_info"]) for _, annotation, _ in entries)
    return Written(images=len(entries), segments=segments, covered=sum(covered for _, _, covered in entries))


def settle_overlaps(instances: Sequence[Instance], size: tuple[int, int]) -> tuple[Int32[np.ndarray, "h w"], list[int]]:
    """An id map of (height, width) with k for the k-th instance from 1, and the places (from 0) of those left in it."""
    ids = np.zeros(size, np.int32)
    flat = ids.reshape(-1)
    for place in sorted(range(len(instances)), key=lambda k: (-instances[k].iscrowd, -len(instances[k].pixels))):
        flat[instances[place].pixels] = place + 1
    visible = np.bincount(ids.ravel(), minlength=len(instances) + 1)[1:]
    return ids, np.flatnonzero(visible).tolist()


def write_ids(path: Path, ids: Int32[np.ndarray, "height width"]) -> None:
    """Write an id map as COCO does: id = R + 256 G + 65536 B."""
    bgr = np.stack([ids >> 16, (ids >> 8) & 255, ids & 255], axis=-1).astype(np.uint8)
    _, encoded = cv2.imencode(".png", bgr)
    write_bytes(path, encoded.tobytes())


def _write_image(
    target: Path, split: str, image: LabelledImage, png_name: str
) -> tuple[dict[str, Any], dict[str, Any], int]:
    pixels = read_image(image.path, image.size)
    size = (pixels.shape[0], pixels.shape[1])
    instances = image.read(size)
    if len(instances) >= ID_LIMIT:
        raise DatasetError(f"{image.path}: {len(instances)} segments do not fit into the ids of a PNG")
    painted, kept = settle_overlaps(instances, size)
    numbers = np.zeros(len(instances) + 1, np.int32)
    numbers[np.array(kept, np.int64) + 1] = np.arange(1, len(kept) + 1)
    ids = numbers[painted]
    write_ids(target / f"panoptic_{split}" / png_name, ids)
    name = _place_image(image, pixels, target / "images" / split)
    areas = np.bincount(ids.ravel(), minlength=len(kept) + 1)
    boxes = segment_boxes(ids.astype(np.min_scalar_type(len(kept))), len(kept))
    segments = [
        {
            "id": number,
            "category_id": instances[place].category_id,
            "iscrowd": instances[place].iscrowd,
            "area": int(areas[number]),
            "bbox": boxes[number].tolist(),
        }
        for number, place in enumerate(kept, 1)
    ]
    record = {**image.record, "id": image.image_id, "file_name": name, "height": size[0], "width": size[1]}
    annotation = {"image_id": image.image_id, "file_name": png_name, "segments_info": segments}
    return record, annotation, len(instances) - len(kept)


def _place_image(image: LabelledImage, pixels: np.ndarray, folder: Path) -> str:
    """Copy the photograph as it is, or as PNG where other tools may not read its format; returns its name."""
    if image.path.suffix.lower() in _KEPT_AS_THEY_ARE:
        with replacing(folder / image.name) as temporary:
            shutil.copyfile(image.path, temporary)
        return image.name
    name = f"{image.name}.png"
    _, encoded = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    write_bytes(folder / name, encoded.tobytes())
    return name


def _png_names(images: Sequence[LabelledImage]) -> list[str]:
    """The photographs' names with .png; in full where two would have the same, such as a.jpg and a.png."""
    short = [str(Path(image.name).with_suffix(".png")) for image in images]
    return short if len(set(short)) == len(short) else [f"{image.name}.png" for image in images]


def _refuse_other(target: Path, split: str, categories: Sequence[Mapping[str, Any]], unlabelled: Unlabelled) -> None:
    if not split or not split.replace("_", "").replace("-", "").isalnum():
        raise DatasetError(f"split {split!r} must be a plain word, such as train or val")
    ours = [dict(category) for category in categories]
    for path in sorted(target.glob("panoptic_*.json")):
        if path.name == f"panoptic_{split}.json":
            raise DatasetError(f"{path} is there already; give another folder or --split, or remove it first")
        document = read_json(path)
        theirs = document if isinstance(document, dict) else {}
        if theirs.get("categories") != ours or theirs.get("info", {}).get("unlabelled") != unlabelled:
            raise DatasetError(f"{path} has other categories or another meaning of 0; give another folder")
