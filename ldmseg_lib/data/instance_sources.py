"""Annotations as people have them, as labelled images: COCO instances, Pascal VOC, one mask per instance."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32
from PIL import Image, UnidentifiedImageError
from pycocotools import mask as rle

from ..core.errors import DatasetError, InputError
from ..core.files import inside, read_json
from .folder_writer import Instance, LabelledImage

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""The classes of Pascal VOC; index k of a class PNG is the k-th from 1."""

_VOC_BORDER = 255
_PHOTOGRAPHS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def coco_instances(
    annotations: str | os.PathLike, images: str | os.PathLike
) -> tuple[list[LabelledImage], list[dict[str, Any]]]:
    """The images and categories of a COCO instance JSON: polygons, and RLE as counts or compressed.

    Args:
        annotations: the JSON, such as instances_train2017.json.
        images: the folder that its file names refer to.

    Raises:
        DatasetError: the JSON is missing, or an entry of it lacks what is needed. The segmentations themselves are
            checked when an image is read.
    """
    place = Path(annotations)
    document = read_json(place)
    for key in ("images", "annotations", "categories"):
        entries = document.get(key) if isinstance(document, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DatasetError(f"{place}: no list {key!r} of objects; this is not a COCO instance file")
    try:
        categories = [{"id": c["id"], "name": str(c["name"]), "isthing": 1} for c in document["categories"]]
    except KeyError as error:
        raise DatasetError(f"{place}: a category has no {error}") from None
    known = {category["id"] for category in categories}
    by_image: dict[Any, list[dict[str, Any]]] = {entry.get("id"): [] for entry in document["images"]}
    for entry in document["annotations"]:
        where = f"{place}: annotation id {entry.get('id')}"
        if entry.get("image_id") not in by_image:
            raise DatasetError(f"{where}: image_id {entry.get('image_id')!r} is not among the images")
        if entry.get("category_id") not in known:
            raise DatasetError(f"{where}: category_id {entry.get('category_id')!r} is not among the categories")
        by_image[entry["image_id"]].append(entry)
    labelled = []
    for entry in document["images"]:
        number, name, size = entry.get("id"), entry.get("file_name"), (entry.get("height"), entry.get("width"))
        if not all(isinstance(value, int) and value >= 0 for value in (number, *size)) or not isinstance(name, str):
            raise DatasetError(f"{place}: image {name!r} (id {number!r}) needs id, file_name, height and width")
        try:
            path = inside(images, name)
        except InputError as error:
            raise DatasetError(f"{place}, image id {number}: {error}") from None
        labelled.append(
            LabelledImage(path, name, number, partial(_decode_all, place, by_image[number]), size=size, record=entry)
        )
    return labelled, categories


def _decode_all(place: Path, entries: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> list[Instance]:
    found = []
    for entry in entries:
        mask = decode_segmentation(entry.get("segmentation"), size, _where(place, entry))
        found.append(Instance(np.flatnonzero(mask), entry["category_id"], int(bool(entry.get("iscrowd", 0)))))
    return found


def _where(place: Path, entry: Mapping[str, Any]) -> str:
    return f"{place}, image id {entry['image_id']}, annotation id {entry.get('id')}"


def decode_segmentation(segmentation: Any, size: tuple[int, int], where: str) -> Bool[np.ndarray, "height width"]:
    """The mask of COCO polygons or RLE, by pycocotools, which itself trusts its input (it crashes on some).

    Raises:
        DatasetError: beginning with `where`.
    """
    height, width = size
    if isinstance(segmentation, dict):
        counts = segmentation.get("counts")
        if list(segmentation.get("size") or ()) != [height, width]:
            raise DatasetError(
                f"{where}: the RLE is of size {segmentation.get('size')}, the image of {[height, width]}"
            )
        try:
            runs = _uncompressed(counts) if isinstance(counts, str) else [int(run) for run in counts or ()]
        except (TypeError, ValueError, IndexError):
            runs = []
        if not runs or min(runs) < 0 or sum(runs) != height * width:
            raise DatasetError(f"{where}: the RLE's counts do not add up to the image's {height * width} pixels")
        return rle.decode(rle.frPyObjects({"size": [height, width], "counts": runs}, height, width)).astype(bool)
    if not isinstance(segmentation, list) or not segmentation:
        raise DatasetError(
            f"{where}: no segmentation (a box alone says no pixels); give polygons or RLE, or leave it out"
        )
    try:
        polygons = [np.asarray(polygon, dtype=np.float64) for polygon in segmentation]
    except (TypeError, ValueError):
        polygons = []
    if not polygons or any(p.ndim != 1 or len(p) < 6 or len(p) % 2 for p in polygons):
        raise DatasetError(f"{where}: a polygon must be a list x1, y1, x2, y2, ... of at least three points")
    limits = np.array([width, height])
    for polygon in polygons:
        points = polygon.reshape(-1, 2)
        if not (np.isfinite(points).all() and (points >= -limits).all() and (points <= 2 * limits).all()):
            raise DatasetError(f"{where}: a polygon has points far outside of the image of {width}x{height} px")
    return rle.decode(rle.merge(rle.frPyObjects([p.tolist() for p in polygons], height, width))).astype(bool)


def _uncompressed(counts: str) -> list[int]:
    """Run lengths of COCO's compressed RLE: five bits a character, each run from the third on less the second last."""
    runs: list[int] = []
    place = 0
    while place < len(counts):
        value, shift, more = 0, 0, True
        while more:
            bits = ord(counts[place]) - 48
            if not 0 <= bits < 64:
                raise ValueError(counts[place])
            value |= (bits & 31) << shift
            place, shift, more = place + 1, shift + 5, bool(bits & 32)
            if not more and bits & 16:
                value |= -1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs


def voc(
    root: str | os.PathLike,
    split: str,
    *,
    images: str = "JPEGImages",
    objects: str = "SegmentationObject",
    classes: str | None = "SegmentationClass",
    class_names: Sequence[str] = VOC_CLASSES,
    background: bool = True,
) -> tuple[list[LabelledImage], list[dict[str, Any]]]:
    """Pascal VOC's layout, or id PNGs like its own: a pixel's value is its object, 0 is background, 255 unknown.

    Args:
        root: the folder that holds all others.
        split: ImageSets/Segmentation/<split>.txt lists the images; without that file, all id PNGs are taken.
        images: folder of the photographs.
        objects: folder of the id PNGs.
        classes: folder of PNGs with each pixel's class; None: all objects are of one class, `class_names[0]`.
        class_names: names of the classes 1, 2, ...
        background: make the pixels of value 0 a stuff segment; else they are void like those of value 255.

    Raises:
        DatasetError: a folder or a listed file is missing.
    """
    root = Path(root)
    for folder in filter(None, (images, objects, classes)):
        if not (root / folder).is_dir():
            raise DatasetError(f"{root / folder}: no such folder; name the right one (see --help)")
    listed = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    names = listed.read_text().split() if listed.is_file() else sorted(p.stem for p in (root / objects).glob("*.png"))
    photographs = {p.stem: p for p in sorted((root / images).iterdir()) if p.suffix.lower() in _PHOTOGRAPHS}
    labelled = []
    for number, name in enumerate(names, 1):
        ids = inside(root / objects, f"{name}.png")
        if name not in photographs or not ids.is_file():
            missing = root / images / name if name not in photographs else ids
            raise DatasetError(f"{missing}: no such file, but {listed if listed.is_file() else ids} asks for it")
        class_map = root / classes / f"{name}.png" if classes else None
        read = partial(_read_objects, ids, class_map, len(class_names), background)
        labelled.append(LabelledImage(photographs[name], photographs[name].name, number, read))
    categories = [{"id": k, "name": name, "isthing": 1} for k, name in enumerate(class_names, 1)]
    if background:
        categories.append({"id": len(class_names) + 1, "name": "background", "isthing": 0})
    return labelled, categories


def _read_objects(
    objects: Path, classes: Path | None, num_classes: int, background: bool, size: tuple[int, int]
) -> list[Instance]:
    ids = read_labels(objects, size)
    border = _VOC_BORDER if ids.max(initial=0) <= _VOC_BORDER else None
    class_map = None if classes is None else read_labels(classes, size)
    found = []
    for value in np.unique(ids).tolist():
        if value == border or (value == 0 and not background):
            continue
        pixels = np.flatnonzero(ids == value)
        category = 1 if class_map is None else int(np.bincount(class_map.reshape(-1)[pixels]).argmax())
        if value and not 0 < category <= num_classes:
            raise DatasetError(f"{classes}: object {value} is of class {category}, but classes are 1 to {num_classes}")
        found.append(Instance(pixels, category if value else num_classes + 1))
    return found


def read_labels(path: Path, size: tuple[int, int]) -> Int32[np.ndarray, "height width"]:
    """The values of a palette or greyscale image of (height, width) = `size`, not its colours.

    Raises:
        DatasetError: it is missing, no image, of another size, or has colours.
    """
    image = _opened(path, size)
    if image.mode not in ("P", "L", "1") and not image.mode.startswith("I"):
        raise DatasetError(
            f"{path}: has colours ({image.mode}) where numbers are needed; save it with a palette or grey"
        )
    return np.array(image).astype(np.int32)


def _opened(path: Path, size: tuple[int, int]) -> Image.Image:
    try:
        with Image.open(path) as image:
            if (image.height, image.width) == size:
                image.load()
                return image.copy()
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{path}: cannot be read as an image ({' '.join(str(error).split())})") from None
    raise DatasetError(f"{path}: the mask is {image.width}x{image.height} px, its photograph {size[1]}x{size[0]}")


def mask_folders(
    root: str | os.PathLike, *, class_name: str = "object"
) -> tuple[list[LabelledImage], list[dict[str, Any]]]:
    """One folder an image, with images/<one photograph> and masks/<one mask per instance>, as in the 2018 Data
    Science Bowl. What is not zero in a mask is the instance.

    Raises:
        DatasetError: there is no such folder, or one without photograph or masks.
    """
    root = Path(root)
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if not folders:
        raise DatasetError(f"{root}: no folders with images/ and masks/ in it")
    labelled = []
    for number, folder in enumerate(folders, 1):
        photographs, masks = (
            [p for p in sorted((folder / part).glob("*")) if p.suffix.lower() in _PHOTOGRAPHS]
            for part in ("images", "masks")
        )
        if len(photographs) != 1 or not (folder / "masks").is_dir():
            raise DatasetError(f"{folder}: needs images/ with one photograph, and masks/; it has {len(photographs)}")
        name = folder.name + photographs[0].suffix
        labelled.append(LabelledImage(photographs[0], name, number, partial(_read_masks, masks)))
    return labelled, [{"id": 1, "name": class_name, "isthing": 1}]


def _read_masks(paths: Sequence[Path], size: tuple[int, int]) -> list[Instance]:
    return [Instance(np.flatnonzero(np.array(_opened(path, size).convert("L"))), 1) for path in paths]


def in_validation(name: str, share: float) -> bool:
    """Whether the image `name` belongs to the validation split, a `share` of all; it depends on the name alone."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) < share * 16**8
