"""COCO's segmentations as masks: polygons, and RLE as counts or compressed."""

from typing import Any

import numpy as np
from jaxtyping import Bool
from pycocotools import mask as rle

from .findings import Findings, SourceFault

_NONE = "objects without segmentation"
_POLYGON = "objects with a faulty polygon"
_RLE = "objects with a faulty RLE"


def decode_segmentation(
    segmentation: Any, size: tuple[int, int], where: str, findings: Findings
) -> Bool[np.ndarray, "height width"] | None:
    """The mask of COCO polygons or RLE, by pycocotools, which itself trusts its input (it crashes on some).

    Slips of one or two points beside a polygon are dropped; what is lost is remarked on. None: wholly outside.

    Raises:
        SourceFault: beginning with `where`.
    """
    if isinstance(segmentation, dict):
        return _decode_rle(segmentation, size, where)
    if isinstance(segmentation, str):
        raise SourceFault(_RLE, f"{where}: the segmentation is a text; give polygons, or RLE with size and counts")
    if not isinstance(segmentation, list) or all(part in ([], {}, None) for part in segmentation):
        raise SourceFault(
            _NONE, f"{where}: no segmentation (a box alone says no pixels); give polygons or RLE, or leave it out"
        )
    if all(isinstance(value, int | float) for value in segmentation):
        raise SourceFault(
            _POLYGON, f"{where}: the polygon stands alone; COCO has a list of polygons: write [[x1, y1, ...]]"
        )
    height, width = size
    polygons = _polygons(segmentation, where, findings)
    limits = np.array([width, height])
    points = np.concatenate([polygon.reshape(-1, 2) for polygon in polygons])
    if not (np.isfinite(points).all() and (points >= -limits).all() and (points <= 2 * limits).all()):
        raise SourceFault(_POLYGON, f"{where}: a polygon has points far outside of the image of {width}x{height} px")
    if (points >= 0).all() and (points <= 1).all() and min(size) > 4:
        raise SourceFault(
            _POLYGON, f"{where}: all points lie within 0 and 1; give pixels, not shares of the image's sides"
        )
    if (points.max(0) <= 0).any() or (points.min(0) >= limits).any():
        findings.remark("objects wholly outside of their image, left out")
        return None
    if (points < -1).any() or (points > limits + 1).any():
        findings.remark("objects that reach outside of their image, cut off there")
    return rle.decode(rle.merge(rle.frPyObjects([p.tolist() for p in polygons], height, width))).astype(bool)


def polygon_extent(segmentation: Any) -> tuple[float, float]:
    """The largest y and x of polygons; zeros where they are none."""
    try:
        parts = [np.asarray(part, float).reshape(-1, 2) for part in segmentation if len(part) >= 6]
        y_x = np.concatenate(parts).max(0)[::-1]
    except (TypeError, ValueError):
        return 0.0, 0.0
    return float(y_x[0]), float(y_x[1])


def _polygons(segmentation: list[Any], where: str, findings: Findings) -> list[np.ndarray]:
    try:
        polygons = [np.asarray(polygon, dtype=np.float64) for polygon in segmentation]
    except (TypeError, ValueError):
        polygons = []
    kept = [p for p in polygons if p.ndim != 1 or len(p) >= 6]
    if not kept or any(p.ndim != 1 or len(p) < 6 or len(p) % 2 for p in kept):
        raise SourceFault(_POLYGON, f"{where}: a polygon must be a list x1, y1, x2, y2, ... of at least three points")
    if len(kept) < len(polygons):
        findings.remark("parts of fewer than three points beside a polygon, dropped", len(polygons) - len(kept))
    return kept


def _decode_rle(segmentation: dict[str, Any], size: tuple[int, int], where: str) -> np.ndarray:
    height, width = size
    counts, stated = segmentation.get("counts"), segmentation.get("size")
    if not isinstance(stated, list) or stated != [height, width]:
        raise SourceFault(_RLE, f"{where}: the RLE is of size {stated}, the image of {[height, width]}")
    if isinstance(counts, str) and counts[:2] in ("b'", 'b"'):
        raise SourceFault(
            _RLE, f"{where}: the RLE's counts are Python's text of bytes, b'...'; write counts.decode() instead"
        )
    try:
        runs = _uncompressed(counts) if isinstance(counts, str) else [int(run) for run in counts or ()]
    except (TypeError, ValueError, IndexError, OverflowError):
        runs = []
    if not runs or min(runs) < 0 or sum(runs) != height * width:
        raise SourceFault(_RLE, f"{where}: the RLE's counts do not add up to the image's {height * width} pixels")
    return rle.decode(rle.frPyObjects({"size": [height, width], "counts": runs}, height, width)).astype(bool)


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
