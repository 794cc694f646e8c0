"""Geometry and ids of one sample: crop, square resize, mirror, and the relabelling of segments.

Everything is a plain function of arrays and, where it is random, of a generator. Id maps and depth are resized by
nearest neighbour at block centres (as Pillow does), the image by Pillow's bicubic with antialiasing. The aspect is not
kept: the paper resizes to a square.
"""

import numpy as np
from jaxtyping import Bool, Int, Num, Shaped, UInt, UInt8
from PIL import Image


def crop_corner(size: tuple[int, int], crop_size: int, generator: np.random.Generator | None = None) -> tuple[int, int]:
    """Row and column of a square crop's corner: uniform with a generator, else centred.

    A side shorter than `crop_size` gives a corner of at most 0: the picture then lies whole inside the crop.
    """
    height, width = size
    return _offset(height - crop_size, generator), _offset(width - crop_size, generator)


def _offset(room: int, generator: np.random.Generator | None) -> int:
    step = abs(room) // 2 if generator is None else int(generator.integers(abs(room) + 1))
    return step if room >= 0 else -step


def crop(
    array: Shaped[np.ndarray, "height width *channels"], corner: tuple[int, int], crop_size: int, fill: int = 0
) -> Shaped[np.ndarray, "crop crop *channels"]:
    """The square of `crop_size` pixels at `corner`; what lies outside the array is `fill`."""
    (top, left), (height, width) = corner, array.shape[:2]
    if top >= 0 and left >= 0 and top + crop_size <= height and left + crop_size <= width:
        return array[top : top + crop_size, left : left + crop_size]
    result = np.full((crop_size, crop_size, *array.shape[2:]), fill, dtype=array.dtype)
    rows = slice(max(top, 0), min(top + crop_size, height))
    columns = slice(max(left, 0), min(left + crop_size, width))
    result[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = array[rows, columns]
    return result


def resize_image(image: UInt8[np.ndarray, "height width 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The image at `size` x `size` pixels, by Pillow's bicubic filter with antialiasing."""
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def resize_nearest(array: Num[np.ndarray, "height width"], size: int) -> Num[np.ndarray, "size size"]:
    """A map at `size` x `size` pixels, each the value at its block's centre (512 to 64 takes 4, 12, 20, ...)."""
    if array.shape == (size, size):
        return array
    rows, columns = (_centres(side, size) for side in array.shape)
    return array[rows][:, columns]


def _centres(side: int, size: int) -> np.ndarray:
    """Where the centres of `size` equal blocks of `side` pixels fall; summed step by step, as Pillow does."""
    steps = np.full(size, side / size)
    steps[0] *= 0.5
    return np.minimum(np.cumsum(steps), side - 1).astype(np.intp)


def mirror(array: Shaped[np.ndarray, "height width *channels"]) -> Shaped[np.ndarray, "height width *channels"]:
    """The array with left and right exchanged."""
    return array[:, ::-1]


def position_order(
    index: UInt[np.ndarray, "height width"], areas: Int[np.ndarray, " entries"]
) -> Int[np.ndarray, " entries"]:
    """The segments 0..n in the order of their centroids' x + y/4 (equal ones by number), those without pixels last."""
    height, width = index.shape
    weights = np.arange(width)[None, :] + np.arange(height)[:, None] / 4
    sums = np.bincount(index.ravel(), weights=weights.ravel(), minlength=len(areas))
    return np.argsort(np.where(areas > 0, sums / np.maximum(areas, 1), np.inf), kind="stable")


def largest(
    areas: Int[np.ndarray, " segments"], wanted: Bool[np.ndarray, " segments"], limit: int
) -> Bool[np.ndarray, " segments"]:
    """`wanted`, less the smallest of them beyond `limit` (of equal ones the later)."""
    if int(wanted.sum()) <= limit:
        return wanted
    places = np.flatnonzero(wanted)
    kept = places[np.argsort(-areas[places], kind="stable")[:limit]]
    result = np.zeros_like(wanted)
    result[kept] = True
    return result


def draw_ids(count: int, num_ids: int, generator: np.random.Generator) -> Int[np.ndarray, " count"]:
    """`count` different ids, uniform over 1..num_ids-1; 0 is void's alone."""
    return generator.permutation(num_ids - 1)[:count] + 1
