"""Annotations as people have them, as labelled images: COCO instances, Pascal VOC, one mask per instance."""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DatasetError, InputError
from ..core.files import inside, read_json
from .findings import Findings, SourceFault
from .folder_writer import Instance, LabelledImage
from .mask_files import open_mask, read_labels, read_mask
from .pixels import exif_orientation
from .segmentations import decode_segmentation, polygon_extent
from .values import as_flag, as_whole, other_spelling

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""The classes of Pascal VOC; index k of a class PNG is the k-th from 1."""

_VOC_BORDER = 255
_PHOTOGRAPHS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Source:
    """Images and categories of a source, and what was found while they were listed."""

    images: list[LabelledImage]
    categories: list[dict[str, Any]]
    findings: Findings = field(default_factory=Findings)


def coco_instances(
    annotations: str | os.PathLike,
    images: str | os.PathLike,
    *,
    stuff: Sequence[str] = (),
    crowds_are_segments: bool = False,
) -> Source:
    """The images and categories of a COCO instance JSON: polygons, and RLE as counts or compressed.

    Args:
        annotations: the JSON, such as instances_train2017.json.
        images: the folder that its file names refer to.
        stuff: names of categories that are stuff, for a JSON without `isthing`; the others are things.
        crowds_are_segments: take every annotation with `iscrowd` 1 for an ordinary segment.

    Raises:
        DatasetError: the JSON is missing or of another form. Faulty entries are among the findings; segmentations are
            checked when an image is read.
    """
    place, findings = Path(annotations), Findings()
    document = read_json(place)
    for key in ("images", "annotations", "categories"):
        entries = document.get(key) if isinstance(document, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DatasetError(f"{place}: no list {key!r} of objects; this is not a COCO instance file")
    categories = _coco_categories(place, document["categories"], stuff)
    known = {category["id"] for category in categories}
    by_image: dict[Any, list[dict[str, Any]]] = {_coco_id(entry.get("id")): [] for entry in document["images"]}
    for entry in document["annotations"]:
        where = f"{place}: annotation id {entry.get('id')}"
        image_id, category_id = _coco_id(entry.get("image_id")), as_whole(entry.get("category_id"))
        crowd = as_flag(entry.get("iscrowd"), 0)
        if image_id is None or image_id not in by_image:
            other = other_spelling(image_id)
            hint = f", which have {other!r}: write both as number or both as text" if other in by_image else ""
            findings.fault(
                "annotations of no image", f"{where}: image_id {entry.get('image_id')!r} is not among the images{hint}"
            )
        elif category_id not in known:
            findings.fault(
                "annotations of no category",
                f"{where}: category_id {entry.get('category_id')!r} is not among the categories",
            )
        elif crowd is None:
            findings.fault(
                "annotations with a faulty iscrowd", f"{where}: iscrowd is {entry['iscrowd']!r}; write 0 or 1"
            )
        else:
            crowd = 0 if crowds_are_segments else crowd
            by_image[image_id].append(entry | {"image_id": image_id, "category_id": category_id, "iscrowd": crowd})
    taken = [entry["iscrowd"] for entries in by_image.values() for entry in entries]
    if taken and all(taken):
        findings.remark("annotations, all of them crowds: nothing to train on (see --crowds-are-segments)", len(taken))
    labelled = [_coco_image(place, Path(images), entry, by_image, findings) for entry in document["images"]]
    return Source(_distinct(place, labelled, findings), categories, findings)


def _coco_id(value: Any) -> int | str | None:
    return value if isinstance(value, str) and value else as_whole(value)


def _coco_categories(place: Path, entries: Sequence[Mapping[str, Any]], stuff: Sequence[str]) -> list[dict[str, Any]]:
    categories: list[dict[str, Any]] = []
    for entry in entries:
        for key in ("id", "name"):
            if key not in entry:
                raise DatasetError(f"{place}: a category has no {key!r}")
        category_id, isthing = as_whole(entry["id"]), as_flag(entry.get("isthing"), 1)
        if category_id is None or category_id in [category["id"] for category in categories]:
            raise DatasetError(f"{place}: category id {entry['id']!r} must be an integer of its own, at least 0")
        if isthing is None:
            raise DatasetError(f"{place}: category id {category_id}: isthing is {entry['isthing']!r}; write 0 or 1")
        name = str(entry["name"])
        categories.append({"id": category_id, "name": name, "isthing": 0 if name in stuff else isthing})
    missing = [name for name in stuff if name not in [category["name"] for category in categories]]
    if missing:
        raise DatasetError(f"{place}: no category {missing[0]!r}; --stuff takes names of categories")
    return categories


def _coco_image(
    place: Path, folder: Path, entry: Mapping[str, Any], by_image: Mapping[Any, Any], findings: Findings
) -> LabelledImage | None:
    number, name = _coco_id(entry.get("id")), entry.get("file_name")
    height, width = as_whole(entry.get("height")), as_whole(entry.get("width"))
    if number is None or not isinstance(name, str) or not name or not height or not width:
        values = ", ".join(f"{key} is {entry.get(key)!r}" for key in ("id", "file_name", "height", "width"))
        findings.fault(
            "images without id, file_name or size",
            f"{place}: image {name!r} needs id, file_name, height and width; {values}",
        )
        return None
    try:
        path, name = find_file(folder, name)
    except InputError as error:
        findings.fault("images outside of the folder", f"{place}, image id {number}: {error}")
        return None
    read = partial(_decode_all, place, path, by_image[number])
    return LabelledImage(path, name, number, read, size=(height, width), record=entry)


def find_file(folder: Path, name: str) -> tuple[Path, str]:
    """The file that a JSON calls `name` and its name in `folder`: also with backslashes, blanks around it, or accents
    composed in another way.

    Raises:
        InputError: `name` leaves the folder.
    """
    plain = name.strip().replace("\\", "/")
    forms = [unicodedata.normalize(form, plain) for form in ("NFC", "NFD")]
    for candidate in dict.fromkeys((name, plain, *forms)):
        path = inside(folder, candidate)
        if path.is_file():
            return path, candidate
    return inside(folder, plain), plain


def _distinct(place: Path, images: Iterable[LabelledImage | None], findings: Findings) -> list[LabelledImage]:
    """The images, less those whose id or file an earlier one has."""
    kept: dict[str, LabelledImage] = {}
    numbers: Counter[Any] = Counter()
    for image in filter(None, images):
        numbers[image.image_id] += 1
        if image.name in kept or numbers[image.image_id] > 1:
            what = f"file {image.name}" if image.name in kept else f"id {image.image_id}"
            findings.fault("images that are listed twice", f"{place}: two images have the {what}; give each its own")
        else:
            kept[image.name] = image
    return list(kept.values())


def _decode_all(
    place: Path, photograph: Path, entries: Sequence[Mapping[str, Any]], size: tuple[int, int], findings: Findings
) -> list[Instance]:
    orientation, stored = exif_orientation(photograph)
    turned = orientation > 4 and size == stored
    extents = [polygon_extent(entry.get("segmentation")) for entry in entries] if turned else []
    if any(y > size[0] + 1 or x > size[1] + 1 for y, x in extents):
        raise SourceFault(
            "photographs whose annotations are turned",
            f"{place}, image id {entries[0]['image_id']}: the camera's EXIF data turn {photograph.name}, and the"
            f" polygons fit the upright photograph of {size[0]}x{size[1]} px, not the {size[1]}x{size[0]} of the JSON;"
            " exchange its height and width",
        )
    found = []
    for entry in entries:
        where = f"{place}, image id {entry['image_id']}, annotation id {entry.get('id')}"
        try:
            mask = decode_segmentation(entry.get("segmentation"), size, where, findings)
        except SourceFault as error:
            findings.fault(error.reason, str(error))
            continue
        if mask is not None:
            found.append(Instance(np.flatnonzero(mask), entry["category_id"], entry["iscrowd"]))
    return found


def voc(
    root: str | os.PathLike,
    split: str,
    *,
    images: str = "JPEGImages",
    objects: str = "SegmentationObject",
    classes: str | None = "SegmentationClass",
    class_names: Sequence[str] = VOC_CLASSES,
    background: bool = True,
) -> Source:
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
    photographs = {_stem(p): p for p in _image_files(root / images)}
    names = _listed_names(listed, photographs) if listed.is_file() else [_stem(p) for p in _png_files(root / objects)]
    labelled, findings = [], Findings()
    for number, name in enumerate(names, 1):
        try:
            ids = find_file(root / objects, f"{name}.png")[0]
        except InputError as error:
            findings.fault("images outside of the folder", f"{listed}: {error}")
            continue
        if name not in photographs or not ids.is_file():
            missing = root / images / name if name not in photographs else ids
            asking = listed if listed.is_file() else ids
            findings.fault("files that are missing", f"{missing}: no such file, but {asking} asks for it")
            continue
        size = _annotated_size(photographs[name], ids)
        class_map = find_file(root / classes, f"{name}.png")[0] if classes else None
        read = partial(_read_objects, ids, class_map, len(class_names), background)
        labelled.append(LabelledImage(photographs[name], photographs[name].name, number, read, size=size))
    categories = [{"id": k, "name": name, "isthing": 1} for k, name in enumerate(class_names, 1)]
    if background:
        categories.append({"id": len(class_names) + 1, "name": "background", "isthing": 0})
    return Source(labelled, categories, findings)


def _listed_names(path: Path, photographs: Mapping[str, Path]) -> list[str]:
    """The names in a list of VOC's: one a line, maybe before further columns."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise DatasetError(f"{path}: not UTF-8; save the list as UTF-8 text") from None
    lines = [unicodedata.normalize("NFC", line) for line in lines if line]
    return [line if line in photographs else line.split()[0] for line in lines]


def _annotated_size(photograph: Path, mask: Path) -> tuple[int, int] | None:
    """The stored (height, width) of a photograph that EXIF turns, where the mask was drawn on that; else None."""
    orientation, stored = exif_orientation(photograph)
    return stored if orientation > 4 and exif_orientation(mask)[1] == stored else None


def _stem(path: Path) -> str:
    return unicodedata.normalize("NFC", path.stem)


def _image_files(folder: Path) -> list[Path]:
    """The images in a folder, sorted; hidden files, such as macOS's ._name.png, are none."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in paths if path.suffix.lower() in _PHOTOGRAPHS and not path.name.startswith(".")]


def _png_files(folder: Path) -> list[Path]:
    return [path for path in _image_files(folder) if path.suffix.lower() == ".png"]


def _read_objects(
    objects: Path, classes: Path | None, num_classes: int, background: bool, size: tuple[int, int], findings: Findings
) -> list[Instance]:
    ids = read_labels(objects, size)
    # in 16 bits 255 is an id like any other
    border = None if open_mask(objects, size).mode.startswith("I") else _VOC_BORDER
    class_map = None if classes is None else read_labels(classes, size)
    found = []
    for value in np.unique(ids).tolist():
        if value == border or (value == 0 and not background):
            continue
        pixels = np.flatnonzero(ids == value)
        category = 1 if class_map is None else int(np.bincount(class_map.reshape(-1)[pixels]).argmax())
        if value and not 0 < category <= num_classes:
            findings.fault(
                "objects of no class",
                f"{classes}: object {value} is of class {category}, but classes are 1 to {num_classes}",
            )
            continue
        found.append(Instance(pixels, category if value else num_classes + 1))
    return found


def mask_folders(root: str | os.PathLike, *, class_name: str = "object") -> Source:
    """One folder an image, with images/<one photograph> and masks/<one mask per instance>, as in the 2018 Data
    Science Bowl. What is not zero in a mask is the instance (see `mask_files.read_mask`).

    Raises:
        DatasetError: there is no such folder. One without photograph or masks is among the findings.
    """
    root = Path(root)
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    folders = [folder for folder in folders if not folder.name.startswith((".", "__MACOSX"))]
    if not folders:
        raise DatasetError(f"{root}: no folders with images/ and masks/ in it")
    labelled, findings = [], Findings()
    for number, folder in enumerate(folders, 1):
        photographs, masks = _image_files(folder / "images"), _image_files(folder / "masks")
        if len(photographs) != 1 or not (folder / "masks").is_dir():
            findings.fault(
                "folders without one photograph and masks",
                f"{folder}: needs images/ with one photograph, and masks/; it has {len(photographs)}",
            )
            continue
        if not masks:
            findings.remark("photographs without any mask")
        name = folder.name + photographs[0].suffix
        size = _annotated_size(photographs[0], masks[0]) if masks else None
        labelled.append(LabelledImage(photographs[0], name, number, partial(_read_masks, masks), size=size))
    return Source(labelled, [{"id": 1, "name": class_name, "isthing": 1}], findings)


def _read_masks(paths: Sequence[Path], size: tuple[int, int], findings: Findings) -> list[Instance]:
    found = []
    for path in paths:
        try:
            found.append(Instance(np.flatnonzero(read_mask(path, size, findings)), 1))
        except SourceFault as error:
            findings.fault(error.reason, str(error))
    return found


def in_validation(name: str, share: float) -> bool:
    """Whether the image `name` belongs to the validation split, a `share` of all; it depends on the name alone."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) < share * 16**8
