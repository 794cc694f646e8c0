"""Which pixels a stroke, a rectangle or a lasso covers, in integers. mask_editor_raster.js does the same for the page.

Coordinates are in pixels, x to the right and y down; pixel (row y, column x) is the square [x, x + 1) x [y, y + 1).
Before anything else a coordinate v is rounded to quarter pixels, q(v) = clamp(floor(4 v + 1/2), -8192, 24576), so that
the centre of a pixel is (4 x + 2, 4 y + 2) and all that follows is exact integer arithmetic: every number stays below
2**52 and is the same in Python's integers and in the doubles of JavaScript. Then a pixel is covered

- by a **stroke** when its centre is at most R away from the polyline of the points, R = clamp(floor(4 r + 1/2), 3,
  1024); the distance to a segment of length sqrt(L) is taken between its ends, where it is |cross| / sqrt(L), as
  |cross| <= isqrt(R**2 L), and from the nearer end elsewhere. R >= 3 lets any point reach at least one centre;
- by a **rectangle** when its centre (X, Y) has x0 <= X < x1 and y0 <= Y < y1, the corners sorted;
- by a **lasso** when the closed polygon of the points winds around its centre (the non-zero rule): an edge from (ax,
  ay) to (bx, by) counts in the row Y when min(ay, by) <= Y < max(ay, by), for the centres at or to the right of its
  crossing.
"""

import math
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Int

from ..core.errors import InputError

UNITS = 4
_LOW, _HIGH = -8192, 24576
_MAX_RADIUS = 1024
MAX_SIDE = 4096

Points = Iterable[tuple[float, float]]
Mask = Bool[np.ndarray, "height width"]


def quantise(points: Points) -> Int[np.ndarray, "points 2"]:
    """The points (x, y) in quarter pixels.

    Raises:
        InputError: there is no point, one is not a pair, or one is not finite.
    """
    try:
        values = np.asarray(list(points), dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError("points must be pairs (x, y) of numbers") from None
    if values.ndim != 2 or values.shape[1] != 2 or len(values) == 0:
        raise InputError(f"points must be one or more pairs (x, y), not an array of shape {values.shape}")
    if not np.isfinite(values).all():
        raise InputError("points must be finite; one is NaN or infinite")
    return np.clip(np.floor(values * UNITS + 0.5), _LOW, _HIGH).astype(np.int64)


def stroke(shape: tuple[int, int], points: Points, radius: float) -> Mask:
    """The pixels within `radius` (0.75 to 256 pixels, else the nearest of these) of the polyline of `points`."""
    if isinstance(radius, bool) or not isinstance(radius, int | float | np.number) or not 0 < radius < math.inf:
        raise InputError(f"radius must be a positive number of pixels, not {radius!r}")
    reach = min(max(math.floor(float(radius) * UNITS + 0.5), 3), _MAX_RADIUS)
    places = quantise(points)
    mask = np.zeros(shape, bool)
    following = places[1:] if len(places) > 1 else places
    for (ax, ay), (bx, by) in zip(places.tolist(), following.tolist()):
        _segment(mask, ax, ay, bx, by, reach)
    return mask


def _segment(mask: Mask, ax: int, ay: int, bx: int, by: int, reach: int) -> None:
    """Set the pixels of `mask` within `reach` of the segment a-b (all in quarter pixels)."""
    height, width = mask.shape
    left, right = max(_first(min(ax, bx) - reach), 0), min(_first(max(ax, bx) + reach + 1), width)
    top, bottom = max(_first(min(ay, by) - reach), 0), min(_first(max(ay, by) + reach + 1), height)
    if left >= right or top >= bottom:
        return
    wx = UNITS * np.arange(left, right, dtype=np.int64)[None, :] + 2 - ax
    wy = UNITS * np.arange(top, bottom, dtype=np.int64)[:, None] + 2 - ay
    dx, dy = bx - ax, by - ay
    length = dx * dx + dy * dy
    along = wx * dx + wy * dy
    square = reach * reach
    near_a = wx * wx + wy * wy <= square
    near_b = (wx - dx) ** 2 + (wy - dy) ** 2 <= square
    beside = np.abs(dx * wy - dy * wx) <= math.isqrt(square * length)
    mask[top:bottom, left:right] |= np.where(along <= 0, near_a, np.where(along >= length, near_b, beside))


def _first(quarter: int) -> int:
    """The first pixel whose centre is at or after `quarter`."""
    return -((2 - quarter) // UNITS)


def rectangle(shape: tuple[int, int], x0: float, y0: float, x1: float, y1: float) -> Mask:
    """The pixels whose centres lie in the rectangle; with whole numbers mask[y0:y1, x0:x1]."""
    (left, top), (right, bottom) = np.sort(quantise([(x0, y0), (x1, y1)]), axis=0)
    y, x = (UNITS * np.arange(side) + 2 for side in shape)
    return ((top <= y) & (y < bottom))[:, None] & (left <= x) & (x < right)


def lasso(shape: tuple[int, int], points: Points) -> Mask:
    """The pixels that the closed polygon of `points` winds around (a loop within a loop stays filled)."""
    height, width = shape
    places = quantise(points).tolist()
    turns = np.zeros((height, width + 1), np.int64)
    for (ax, ay), (bx, by) in zip(places, [*places[1:], places[0]]):
        sign = 1
        if ay > by:
            ax, ay, bx, by, sign = bx, by, ax, ay, -1
        rows = np.arange(max(_first(ay), 0), min(_first(by), height), dtype=np.int64)
        if not len(rows):
            continue
        # the first column x with 4 x + 2 >= ax + (bx - ax) (Y - ay) / (by - ay), rounded up in integers
        above = (bx - ax) * (UNITS * rows + 2 - ay) + (ax - 2) * (by - ay)
        columns = -((-above) // (UNITS * (by - ay)))
        np.add.at(turns, (rows, np.clip(columns, 0, width)), sign)
    return np.cumsum(turns, axis=1)[:, :width] != 0


def pack(mask: Mask) -> bytes:
    """The mask row by row, eight pixels a byte, the first pixel in the lowest bit."""
    return np.packbits(mask, bitorder="little").tobytes()


def unpack(data: bytes, shape: tuple[int, int]) -> Mask:
    """The inverse of `pack`."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little", count=shape[0] * shape[1])
    return bits.reshape(shape).astype(bool)
