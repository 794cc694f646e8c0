"""Writing an edited segmentation for other programs."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8

from ..core.files import write_bytes, write_json
from .pictures import png_bytes


def coco_colours(ids: Int[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """COCO's panoptic colouring: id = R + 256 G + 65536 B."""
    return np.stack([ids & 255, (ids >> 8) & 255, (ids >> 16) & 255], axis=-1).astype(np.uint8)


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

    `ids.png` (grey, 16 bit, value = id; in COCO's colouring when an id exceeds 65535), `ids.npy` (int32), `region.npy`
    (bool, what was hidden), `image.png`, and COCO panoptic: `panoptic.json` with `panoptic/image.png`. Segments whose
    category is not known get one category more, "unnamed segment". Pixels with id 0 are void.
    """
    folder = Path(folder)
    paths = {
        "ids_png": folder / "ids.png",
        "ids_npy": folder / "ids.npy",
        "region_npy": folder / "region.npy",
        "image": folder / "image.png",
        "panoptic_png": folder / "panoptic" / "image.png",
        "panoptic_json": folder / "panoptic.json",
    }
    write_bytes(paths["ids_png"], png_bytes(ids.astype(np.uint16) if ids.max() < 2**16 else coco_colours(ids)))
    write_bytes(paths["ids_npy"], _npy(ids))
    write_bytes(paths["region_npy"], _npy(region))
    write_bytes(paths["image"], png_bytes(photo))
    write_bytes(paths["panoptic_png"], png_bytes(coco_colours(ids)))
    write_json(paths["panoptic_json"], coco_panoptic(ids, segments, categories))
    return paths


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def coco_panoptic(
    ids: Int[np.ndarray, "height width"], segments: Sequence[dict[str, Any]], categories: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The JSON of COCO's panoptic format for one image, `image.png`, with areas and boxes measured on `ids`."""
    known = {s["id"]: s for s in segments if s.get("category_id") is not None}
    names = [dict(c) for c in categories]
    ids_of_names = {c["id"] for c in names}
    unnamed = max(ids_of_names, default=0) + 1
    entries = []
    for number in np.unique(ids[ids > 0]).tolist():
        rows, columns = np.nonzero(ids == number)
        left, top = int(columns.min()), int(rows.min())
        category = known.get(number, {}).get("category_id")
        entries.append(
            {
                "id": number,
                "category_id": category if category in ids_of_names else unnamed,
                "area": len(rows),
                "bbox": [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1],
                "iscrowd": int(known.get(number, {}).get("iscrowd", 0)),
            }
        )
    if any(entry["category_id"] == unnamed for entry in entries):
        names.append({"id": unnamed, "name": "unnamed segment", "supercategory": "unnamed", "isthing": 1})
    height, width = ids.shape
    return {
        "info": {"description": "made with the mask editor", "unlabelled": "void"},
        "images": [{"id": 1, "file_name": "image.png", "height": height, "width": width}],
        "annotations": [{"image_id": 1, "file_name": "image.png", "segments_info": entries}],
        "categories": names,
    }
