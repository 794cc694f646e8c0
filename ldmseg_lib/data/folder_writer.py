"""Writing a split of a COCO panoptic folder from photographs and their segments, whatever format those came in."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
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
from .findings import Findings, SourceFault
from .pixels import ID_LIMIT, exif_orientation, read_image
from .problems import FileFault
from .segment_maps import segment_boxes

_Entry = tuple[dict[str, Any], dict[str, Any], int]
"""What the JSON says of an image and its segments, and how many segments are covered entirely."""
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
        image_id: its number, or a text.
        read: called with (height, width) and the findings to add to; returns the instances.
        size: (height, width) if the annotations say it; the photograph must have it.
        record: what else the JSON is to say of it, such as its licence.
    """

    path: Path
    name: str
    image_id: int | str
    read: Callable[[tuple[int, int], Findings], list[Instance]]
    size: tuple[int, int] | None = None
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Written:
    """What `write_splits` did: numbers of images and segments, and of segments that others cover entirely; what was
    skipped and remarked on."""

    images: int
    segments: int
    covered: int
    findings: Findings = field(default_factory=Findings)


class NewFiles:
    """The files that a conversion made, so that a failed one can take them back."""

    def __init__(self) -> None:
        self._paths: dict[Path, None] = {}

    def add(self, path: Path) -> Path:
        """Remember `path`, and those folders above it, that are not there yet; returns it."""
        self._paths |= {new: None for new in (path, *path.parents) if not new.exists()}
        return path

    def remove(self) -> None:
        """Remove the files, and of the folders those that are empty then."""
        for path in sorted(self._paths, reverse=True):
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)


@contextlib.contextmanager
def removed_on_failure() -> Iterator[NewFiles]:
    """New files that are removed again when the block raises, Ctrl-C included."""
    files = NewFiles()
    try:
        yield files
    except BaseException:
        files.remove()
        raise


def write_splits(
    target: str | os.PathLike,
    parts: Mapping[str, Sequence[LabelledImage]],
    categories: Sequence[Mapping[str, Any]],
    *,
    unlabelled: Unlabelled,
    files: NewFiles,
    listed: Findings | None = None,
    skip_faulty: bool = False,
    info: Mapping[str, Any] | None = None,
    workers: int = 1,
    progress: bool = True,
) -> dict[str, Written]:
    """Write images/<split>/, panoptic_<split>/ and, when those of all splits are there, panoptic_<split>.json.

    Panoptic segments do not overlap: where instances do, the smaller one keeps the pixels, and crowd regions give way
    to everything. One that is covered entirely is left out and counted.

    Args:
        target: the data folder; it may hold other splits, of the same categories and meaning of 0.
        parts: what to write, by split.
        categories: COCO category dicts with id, name and isthing.
        unlabelled: what a pixel without segment means.
        files: gets what is written.
        listed: what was found when the source was listed.
        skip_faulty: leave faulty images and objects out.
        info: further entries of the JSON's `info`.
        workers: threads.
        progress: show a progress bar.

    Raises:
        DatasetError: `target` has a split already or another data set's; photographs or annotations are faulty (all are
            named at once); there is no image.
    """
    target = Path(target)
    for split in parts:
        _refuse_other(target, split, categories, unlabelled)
    documents: dict[str, dict[str, Any]] = {}
    written, faults = {}, Findings()
    things = {category["id"] for category in categories if category["isthing"]}
    faults.extend(listed or Findings())
    for split, images in parts.items():
        if not images and not faults.faults:
            raise DatasetError(f"{target}: there is no image to write for split {split!r}")
        entries, findings = _write_images(target, split, images, things, files, workers=workers, progress=progress)
        faults.extend(findings)
        documents[split] = {
            "info": {"unlabelled": unlabelled} | dict(info or {}),
            "images": [image for image, _, _ in entries],
            "annotations": [annotation for _, annotation, _ in entries],
            "categories": [dict(category) for category in categories],
        }
        segments = sum(len(annotation["segments_info"]) for _, annotation, _ in entries)
        covered = sum(count for _, _, count in entries)
        written[split] = Written(images=len(entries), segments=segments, covered=covered, findings=findings)
    if not skip_faulty:
        faults.require_none()
    for split, document in documents.items():
        if not document["images"]:
            raise DatasetError(f"{target}: no image is left for split {split!r} ({faults.by_reason})")
    for split, document in documents.items():
        write_json(files.add(target / f"panoptic_{split}.json"), document, indent=None)
    next(iter(written.values())).findings.extend(listed or Findings())
    return written


def _write_images(
    target: Path,
    split: str,
    images: Sequence[LabelledImage],
    things: Set[int],
    files: NewFiles,
    *,
    workers: int,
    progress: bool,
) -> tuple[list[_Entry], Findings]:
    """Write the photographs and id PNGs of a split; a faulty image makes no entry."""
    entries, findings = [], Findings()

    def write(job: tuple[LabelledImage, str]) -> tuple[_Entry | None, Findings]:
        found = Findings()
        try:
            return _write_image(target, split, *job, things, files, found), found
        except FileFault as error:
            missing = error.reason == "no such file"
            found.fault(f"photographs that {'are missing' if missing else 'cannot be used'}", str(error))
        except SourceFault as error:
            found.fault(error.reason, str(error))
        return None, found

    with (
        ThreadPoolExecutor(max(1, workers)) as pool,
        tqdm(total=len(images), desc=f"converting {split}", unit="image", disable=not progress) as bar,
    ):
        try:
            for entry, found in pool.map(write, zip(images, _png_names(images), strict=True)):
                findings.extend(found)
                entries += [entry] if entry else []
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return entries, findings


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
    target: Path, split: str, image: LabelledImage, png_name: str, things: Set[int], files: NewFiles, findings: Findings
) -> _Entry:
    pixels = read_image(image.path, image.size)
    size = (pixels.shape[0], pixels.shape[1])
    read = image.read(size, findings)
    instances = [instance for instance in read if len(instance.pixels)]
    if len(instances) < len(read):
        findings.remark("objects without a single pixel, left out", len(read) - len(instances))
    full = sum(len(i.pixels) == size[0] * size[1] and i.category_id in things for i in instances)
    if full:
        findings.remark("objects that fill their image", full)
    if len(instances) >= ID_LIMIT:
        raise SourceFault("images with too many segments", f"{image.path}: {len(instances)} do not fit a PNG's ids")
    orientation, stored = exif_orientation(image.path)
    if orientation > 4 and image.size == stored:
        findings.remark("photographs that EXIF turns by a quarter, annotated at the stored size: look at some")
    painted, kept = settle_overlaps(instances, size)
    numbers = np.zeros(len(instances) + 1, np.int32)
    numbers[np.array(kept, np.int64) + 1] = np.arange(1, len(kept) + 1)
    ids = numbers[painted]
    write_ids(files.add(target / f"panoptic_{split}" / png_name), ids)
    name = _place_image(image, pixels, target / "images" / split, files)
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


def _place_image(image: LabelledImage, pixels: np.ndarray, folder: Path, files: NewFiles) -> str:
    """Copy the photograph as it is, or as PNG where other tools may not read its format; returns its name."""
    if image.path.suffix.lower() in _KEPT_AS_THEY_ARE:
        with replacing(files.add(folder / image.name)) as temporary:
            shutil.copyfile(image.path, temporary)
        return image.name
    name = f"{image.name}.png"
    _, encoded = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    write_bytes(files.add(folder / name), encoded.tobytes())
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
