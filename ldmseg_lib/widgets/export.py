"""Writing an edited segmentation for other programs."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8
from scipy import ndimage

from ..core.files import write_bytes, write_json
from .pictures import image_file


def export_segmentation(
    folder: str | os.PathLike,
    *,
    photo: UInt8[np.ndarray, "height width 3"],
    ids: Int[np.ndarray, "height width"],
    region: Bool[np.ndarray, "height width"],
    segments: Sequence[dict[str, Any]],
    categories: Sequence[dict[str, Any]],
) -> dict[str, Path]:
    """Write the segmentation into `folder` and return the paths by name.

    `ids.png` (grey, 16 bit, value = id; in COCO's colours when an id exceeds 65535), `ids.npy` (int32), `region.npy`
    (bool, the hidden region), `image.png`, and COCO panoptic: `panoptic.json` with `panoptic/image.png`. Segments of
    unknown category get an additional category, "unnamed segment". Pixels with id 0 are void.
    """
    # COCO's panoptic colours: id = R + 256 G + 65536 B, the bytes of the id from the lowest
    coco = image_file(ids.astype("<u4").view(np.uint8).reshape(*ids.shape, 4)[..., :3])
    files = {
        "ids_png": ("ids.png", image_file(ids.astype(np.uint16)) if ids.max() < 2**16 else coco),
        "ids_npy": ("ids.npy", _npy(ids)),
        "region_npy": ("region.npy", _npy(region)),
        "image": ("image.png", image_file(photo)),
        "panoptic_png": ("panoptic/image.png", coco),
    }
    paths = {name: Path(folder) / file for name, (file, _) in files.items()}
    for name, (_, data) in files.items():
        write_bytes(paths[name], data)
    paths["panoptic_json"] = Path(folder) / "panoptic.json"
    write_json(paths["panoptic_json"], _coco_panoptic(ids, segments, categories))
    return paths


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _coco_panoptic(
    ids: Int[np.ndarray, "height width"], segments: Sequence[dict[str, Any]], categories: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The JSON of COCO's panoptic format for one image, `image.png`, with areas and boxes measured on `ids`."""
    known = {s["id"]: s for s in segments if s.get("category_id") is not None}
    named = {c["id"]: dict(c) for c in categories}
    unnamed = max(named, default=0) + 1
    numbers, index, areas = np.unique(ids, return_inverse=True, return_counts=True)
    entries = []
    boxes = ndimage.find_objects(index.reshape(ids.shape) + 1)
    for number, area, (rows, columns) in zip(numbers.tolist(), areas.tolist(), boxes, strict=True):
        segment = known.get(number, {})
        category = segment.get("category_id")
        box = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
        entry = {"id": number, "category_id": category if category in named else unnamed, "area": area, "bbox": box}
        if number:
            entries.append(entry | {"iscrowd": int(segment.get("iscrowd", 0))})
    if any(entry["category_id"] == unnamed for entry in entries):
        named[unnamed] = {"id": unnamed, "name": "unnamed segment", "supercategory": "unnamed", "isthing": 1}
    height, width = ids.shape
    return {
        "info": {"description": "made with the mask editor", "unlabelled": "void"},
        "images": [{"id": 1, "file_name": "image.png", "height": height, "width": width}],
        "annotations": [{"image_id": 1, "file_name": "image.png", "segments_info": entries}],
        "categories": list(named.values()),
    }
