"""Id maps as runs of equal pixels: areas, boxes and dense indices without sorting every pixel."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt


@dataclass(frozen=True)
class SegmentIndex:
    """An id map against the list of its segments.

    `index` holds 0 for void and k for the k-th segment of the list (from 1), in the smallest unsigned type that fits;
    `areas[k]` is the number of pixels of k. `unknown` are the ids in the map that the list lacks (void in `index`),
    `absent` the ids of the list that the map lacks.
    """

    index: UInt[np.ndarray, "height width"]
    areas: Int[np.ndarray, " entries"]
    unknown: Int[np.ndarray, " unknown"]
    absent: Int[np.ndarray, " absent"]


@dataclass(frozen=True)
class _Runs:
    values: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray


def _runs(ids: np.ndarray) -> _Runs:
    """Runs of equal pixels along the rows; none crosses from one row to the next."""
    if ids.size == 0:
        empty = np.zeros(0, dtype=np.int64)
        return _Runs(values=ids.reshape(-1), starts=empty, lengths=empty)
    first = np.empty(ids.shape, dtype=bool)
    first[:, 0] = True
    np.not_equal(ids[:, 1:], ids[:, :-1], out=first[:, 1:])
    starts = np.flatnonzero(first)
    return _Runs(values=ids.reshape(-1)[starts], starts=starts, lengths=np.diff(starts, append=ids.size))


def index_segments(
    ids: Int[np.ndarray, "height width"], segment_ids: Int[np.ndarray, " segments"], *, index_zero: bool = False
) -> SegmentIndex:
    """Replace the ids of a map by the positions (from 1) of these ids in `segment_ids`, which must be distinct.

    With `index_zero`, pixels of id 0 become one more segment behind the last of the list, where there are any.
    """
    runs = _runs(ids)
    values, inverse = np.unique(runs.values, return_inverse=True)
    order = np.argsort(segment_ids, kind="stable")
    place = np.searchsorted(segment_ids, values, sorter=order)
    positions = np.append(order, -1)[place]
    known = np.append(segment_ids, -1)[positions] == values
    positions = np.where(known, positions + 1, 0)
    unknown = values[~known & (values != 0)]
    count = len(segment_ids)
    if index_zero and (values == 0).any():
        count += 1
        positions[values == 0] = count
    run_index = positions[inverse].astype(np.min_scalar_type(count))
    areas = np.bincount(run_index, weights=runs.lengths, minlength=count + 1).astype(np.int64)
    return SegmentIndex(
        index=np.repeat(run_index, runs.lengths).reshape(ids.shape),
        areas=areas,
        unknown=unknown.astype(np.int64),
        absent=np.asarray(segment_ids)[areas[1 : len(segment_ids) + 1] == 0].astype(np.int64),
    )


def segment_boxes(index: UInt[np.ndarray, "height width"], num_segments: int) -> Int[np.ndarray, "entries 4"]:
    """COCO boxes (x, y, width, height) in pixels of the segments 0..num_segments; zeros where one has no pixel."""
    runs = _runs(index)
    boxes = np.zeros((num_segments + 1, 4), dtype=np.int64)
    if not len(runs.starts):
        return boxes
    order = np.argsort(runs.values, kind="stable")
    values, starts, lengths = runs.values[order], runs.starts[order], runs.lengths[order]
    rows, left = np.divmod(starts, index.shape[1])
    group = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
    x, y = np.minimum.reduceat(left, group), np.minimum.reduceat(rows, group)
    width = np.maximum.reduceat(left + lengths, group) - x
    height = np.maximum.reduceat(rows, group) + 1 - y
    boxes[values[group]] = np.stack([x, y, width, height], axis=1)
    return boxes
