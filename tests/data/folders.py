"""Small COCO panoptic folders for the tests, good until a test breaks them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CATEGORIES = [
    {"id": 1, "name": "ball", "isthing": 1},
    {"id": 7, "name": "box", "isthing": 1},
    {"id": 40, "name": "floor", "isthing": 0},
]


@dataclass
class Folder:
    """A data folder in memory and on disk; change `document` and call `save`, or write over its files."""

    root: Path
    split: str
    document: dict[str, Any]
    images: Path
    panoptic: Path
    depth: Path
    annotations: Path

    def save(self) -> None:
        self.annotations.parent.mkdir(parents=True, exist_ok=True)
        self.annotations.write_text(json.dumps(self.document))

    def image_path(self, place: int) -> Path:
        return self.images / self.document["images"][place]["file_name"]

    def png_path(self, place: int) -> Path:
        return self.panoptic / self.document["annotations"][place]["file_name"]

    def depth_path(self, place: int) -> Path:
        return self.depth / self.document["annotations"][place]["file_name"]

    def segments(self, place: int) -> list[dict[str, Any]]:
        return self.document["annotations"][place]["segments_info"]

    def ids(self, place: int) -> np.ndarray:
        rgb = np.asarray(Image.open(self.png_path(place)).convert("RGB")).astype(np.int64)
        return rgb @ [1, 256, 65536]

    def write_ids(self, place: int, ids: np.ndarray) -> None:
        self.png_path(place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colours(ids)).save(self.png_path(place))

    def add_image(
        self, ids: np.ndarray, segments: list[dict[str, Any]], *, image: np.ndarray | None = None, seed: int = 0
    ) -> int:
        """Add an image with the id map `ids`; segments need id and category_id. Returns its place."""
        place = len(self.document["images"])
        height, width = ids.shape
        image_id = 100 + place
        record = {"id": image_id, "file_name": f"{image_id:06d}.jpg", "height": height, "width": width}
        info = [{"iscrowd": 0, **segment, **_measure(ids, segment["id"])} for segment in segments]
        self.document["images"].append(record)
        self.document["annotations"].append(
            {"image_id": image_id, "file_name": f"{image_id:06d}.png", "segments_info": info}
        )
        if image is None:
            image = smooth_noise(height, width, seed=seed + place)
        self.images.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(self.image_path(place), quality=90)
        self.write_ids(place, ids)
        if "depth_scale" in self.document["info"]:
            self.depth.mkdir(exist_ok=True)
            Image.fromarray(np.arange(ids.size, dtype=np.uint16).reshape(ids.shape)).save(self.depth_path(place))
        return place


def empty_folder(
    root: Path, *, split: str = "train", layout: str = "flat", unlabelled: str | None = None, depth: bool = False
) -> Folder:
    """A folder without images; `layout` is "flat" or "coco"."""
    info: dict[str, Any] = {}
    if unlabelled:
        info["unlabelled"] = unlabelled
    if depth:
        info["depth_scale"] = 0.001
    document = {"info": info, "images": [], "annotations": [], "categories": [dict(value) for value in CATEGORIES]}
    root.mkdir(parents=True, exist_ok=True)
    if layout == "coco":
        places = root / f"{split}2017", root / f"panoptic_{split}2017", root / f"depth_{split}2017"
        annotations = root / "annotations" / f"panoptic_{split}2017.json"
    else:
        places = root / "images", root / "panoptic", root / "depth"
        annotations = root / f"panoptic_{split}.json"
    return Folder(root, split, document, *places, annotations)


def make_folder(
    root: Path,
    *,
    images: int = 3,
    size: tuple[int, int] = (24, 32),
    split: str = "train",
    layout: str = "flat",
    unlabelled: str | None = None,
    depth: bool = False,
) -> Folder:
    """A saved folder: each image has two things, one stuff segment and a column of unlabelled pixels at the left.

    Ids use all three channels of the PNG. Heights and widths are at least 12.
    """
    folder = empty_folder(root, split=split, layout=layout, unlabelled=unlabelled, depth=depth)
    height, width = size
    for place in range(images):
        ball, box, floor = 70000 + place, 5, 1000
        ids = np.zeros(size, dtype=np.int64)
        ids[height // 2 :, 1:] = floor
        ids[1 : height // 2 - 1, 2 : width // 2] = ball
        ids[2 : height // 2 + 2, width // 2 + 1 : width - 1] = box
        folder.add_image(
            ids,
            [{"id": ball, "category_id": 1}, {"id": box, "category_id": 7}, {"id": floor, "category_id": 40}],
        )
    folder.save()
    return folder


def colours(ids: np.ndarray) -> np.ndarray:
    """Ids as the RGB of a panoptic PNG."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def smooth_noise(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """An RGB picture with some structure, so that decoders and resizers have something to differ on."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _measure(ids: np.ndarray, segment_id: int) -> dict[str, Any]:
    rows, columns = np.nonzero(ids == segment_id)
    x, y = int(columns.min()), int(rows.min())
    box = [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1]
    return {"area": len(rows), "bbox": box}
