"""Large images in overlapping tiles: where tiles lie, and how the maps predicted on them become one map.

A model trained on crops sees an image of any size tile by tile. Every pixel of the result comes from the tile whose
centre is nearest, so each tile fills a rectangle whose borders run through the middle of the strips that it shares with
its neighbours. Ids mean nothing across tiles: two neighbours' segments are one where they agree on the shared strip.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Int, Int32, Shaped

from ..core.errors import InputError
from ..data.transforms import crop, crop_corner

Item = TypeVar("Item")
Window = tuple[slice, slice]

MIN_IOU = 0.5
"""Segments of two tiles whose IoU on the shared strip is above this are one; above 0.5 each has at most one partner."""


@dataclass(frozen=True)
class TileGrid:
    """Square tiles over an image, row by row; made by `place_tiles`.

    Args:
        size: of the image, (height, width) in pixels.
        tile_size: side of the tiles in pixels.
        tops, lefts: the tiles' first rows and columns; negative where the image is smaller than a tile, which then
            holds it in its middle.
    """

    size: tuple[int, int]
    tile_size: int
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    @property
    def corners(self) -> list[tuple[int, int]]:
        """Row and column of each tile's first pixel."""
        return list(itertools.product(self.tops, self.lefts))

    def cut(
        self, array: Shaped[np.ndarray, "height width *channels"], fill: int = 0
    ) -> list[Shaped[np.ndarray, "tile tile *channels"]]:
        """The tiles of an image or a map; what lies outside of it is `fill` (images: black, as in training crops)."""
        if array.shape[:2] != self.size:
            raise InputError(f"an array of {array.shape[:2]} pixels does not fit tiles placed over {self.size}")
        return [crop(array, corner, self.tile_size, fill) for corner in self.corners]

    def stitch(
        self, tiles: Sequence[Shaped[np.ndarray, "tile tile *channels"]]
    ) -> Shaped[np.ndarray, "height width *channels"]:
        """One map from the tiles' maps, each pixel from the tile whose centre is nearest (of equally near the first).

        For values that mean the same in every tile, such as classes; for ids see `stitch_ids`.
        """
        tiles = self._checked(tiles)
        result = np.empty((*self.size, *tiles[0].shape[2:]), dtype=tiles[0].dtype)
        rows, columns = (_shares(*axis, self.tile_size) for axis in zip((self.tops, self.lefts), self.size))
        for tile, corner, window in zip(tiles, self.corners, itertools.product(rows, columns)):
            result[window] = tile[_inside(window, corner)]
        return result

    def stitch_ids(
        self, tiles: Sequence[Int[np.ndarray, "tile tile"]], *, min_iou: float = MIN_IOU, min_area: int = 0
    ) -> Int32[np.ndarray, "height width"]:
        """One id map from those of the tiles, with as many ids as it takes: 1, 2, 3, ..., 0 being void.

        Segments of neighbouring tiles are one where their IoU, on the strip that both tiles cover, is above `min_iou`.
        Links are made in the order of the pixels that speak for them, and none that would join two segments of one
        tile: that tile saw both, and saw them apart.

        Args:
            tiles: id maps, 0 void; equal ids of different tiles have nothing to do with each other.
            min_iou: in [0, 1).
            min_area: segments with fewer pixels than this on the whole map are void.
        """
        numbered, tile_of = _numbered(self._checked(tiles))
        links: list[tuple[int, int, int]] = []
        for first, second, strip in self._neighbours():
            one, other = (numbered[tile][_inside(strip, self.corners[tile])] for tile in (first, second))
            links += _agreements(one, other, min_iou=min_iou)
        segment_of = _joined(tile_of, sorted(links, reverse=True))
        found, places, areas = np.unique(segment_of[self.stitch(numbered)], return_inverse=True, return_counts=True)
        kept = (found != 0) & (areas >= min_area)
        return np.where(kept, np.cumsum(kept), 0).astype(np.int32)[places].reshape(self.size)

    def _checked(self, tiles: Sequence[np.ndarray]) -> list[np.ndarray]:
        arrays = [np.asarray(tile) for tile in tiles]
        wrong = [tile.shape for tile in arrays if tile.shape[:2] != (self.tile_size, self.tile_size)]
        if len(arrays) != len(self) or wrong:
            given = f"one of {wrong[0]}" if wrong else f"{len(arrays)} of them"
            side = self.tile_size
            raise InputError(f"an image of {self.size} pixels has {len(self)} tiles of {side} x {side}, not {given}")
        return arrays

    def _neighbours(self) -> Iterator[tuple[int, int, Window]]:
        """Numbers of two tiles side by side or one below the other, and the strip of the image that both cover."""
        columns = len(self.lefts)
        for first, (top, left) in enumerate(self.corners):
            beside = first + 1 if (first + 1) % columns else len(self)
            for second in (beside, first + columns):
                if second < len(self):
                    low = self.corners[second]
                    rows = _within(low[0], top + self.tile_size, self.size[0])
                    yield first, second, (rows, _within(low[1], left + self.tile_size, self.size[1]))


def place_tiles(size: tuple[int, int], tile_size: int, *, overlap: int | None = None) -> TileGrid:
    """As few tiles of side `tile_size` as cover an image with at least `overlap` pixels shared by neighbours.

    They lie evenly, the first and the last flush with the image's borders. An image that is shorter than a tile gets
    one tile on that axis and lies in its middle, as in a training crop.

    Args:
        size: (height, width) of the image in pixels.
        tile_size: side of the tiles in pixels.
        overlap: pixels, at least 1; None is a sixth of the tile.

    Raises:
        InputError: a size or an overlap that leaves no tile or no step between tiles.
    """
    if min(size) < 1 or tile_size < 2:
        raise InputError(f"tiles of {tile_size} pixels over an image of {tuple(size)}; give a tile_size of at least 2")
    overlap = max(1, tile_size // 6) if overlap is None else overlap
    if not 0 < overlap < tile_size:
        raise InputError(f"tiles of {tile_size} pixels cannot overlap by {overlap}; give 1 to {tile_size - 1}")
    centred = crop_corner(size, tile_size)
    tops, lefts = (_starts(length, tile_size, overlap, alone) for length, alone in zip(size, centred))
    return TileGrid((int(size[0]), int(size[1])), tile_size, tops, lefts)


def count_tiles(size: tuple[int, int], tile_size: int | None) -> int:
    """How many tiles an image of `size` (height, width) has; 1 with tile_size None, the whole image at once."""
    return 1 if tile_size is None else len(place_tiles(size, tile_size))


def fill_batches(items: Iterable[Item], count: Callable[[Item], int], limit: int) -> Iterator[list[Item]]:
    """Consecutive items in groups whose counts add up to at most `limit`; an item beyond the limit is alone."""
    group: list[Item] = []
    total = 0
    for item in items:
        number = count(item)
        if group and total + number > limit:
            yield group
            group, total = [], 0
        group.append(item)
        total += number
    if group:
        yield group


def _starts(length: int, tile_size: int, overlap: int, alone: int) -> tuple[int, ...]:
    room = length - tile_size
    if room <= 0:
        return (alone,)
    steps = -(-room // (tile_size - overlap))
    return tuple(step * room // steps for step in range(steps + 1))


def _shares(starts: tuple[int, ...], length: int, tile_size: int) -> list[slice]:
    """The part of an axis that is nearest to each tile's centre."""
    borders = [(low + high + tile_size + 1) // 2 for low, high in itertools.pairwise(starts)]
    return [slice(low, high) for low, high in itertools.pairwise([0, *borders, length])]


def _within(low: int, high: int, length: int) -> slice:
    return slice(max(low, 0), min(high, length))


def _inside(window: Window, corner: tuple[int, int]) -> Window:
    """A window of the image in the coordinates of the tile at `corner`."""
    rows, columns = (slice(part.start - start, part.stop - start) for part, start in zip(window, corner))
    return rows, columns


def _numbered(tiles: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """The tiles with one number 1, 2, ... for each segment of each tile, and the tile of each number (0: void, -1)."""
    numbered, tile_of = [], [-1]
    for tile, ids in enumerate(tiles):
        found, places = np.unique(ids, return_inverse=True)
        segment = found != 0
        numbers = np.where(segment, np.cumsum(segment) + len(tile_of) - 1, 0)
        tile_of += [tile] * int(segment.sum())
        numbered.append(numbers[places].reshape(ids.shape))
    return numbered, np.array(tile_of)


def _agreements(first: np.ndarray, second: np.ndarray, *, min_iou: float) -> list[tuple[int, int, int]]:
    """(shared pixels, number, number) of the segments of two tiles that agree on a strip."""
    numbers, rows = np.unique(first.ravel(), return_inverse=True)
    others, columns = np.unique(second.ravel(), return_inverse=True)
    table = np.bincount(rows * len(others) + columns, minlength=len(numbers) * len(others))
    common = table.reshape(len(numbers), len(others))
    union = common.sum(1, keepdims=True) + common.sum(0, keepdims=True) - common
    agree = (common > min_iou * union) & (numbers > 0)[:, None] & (others > 0)
    return [(int(common[k]), int(numbers[k[0]]), int(others[k[1]])) for k in zip(*agree.nonzero())]


def _joined(tile_of: np.ndarray, links: Iterable[tuple[int, int, int]]) -> np.ndarray:
    """For each number the lowest one of its segment, after all links that join no two numbers of one tile."""
    members = {number: [number] for number in range(len(tile_of))}
    for _, first, second in links:
        ours, theirs = members[first], members[second]
        if ours is not theirs and set(tile_of[ours]).isdisjoint(tile_of[theirs]):
            ours += theirs
            members.update(dict.fromkeys(theirs, ours))
    return np.array([min(members[number]) for number in range(len(tile_of))])
