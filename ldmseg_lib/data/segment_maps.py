"""Id maps as runs of equal pixels: areas, boxes and dense indices without sorting every pixel."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt
from scipy import ndimage


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


def index_segments(
    ids: Int[np.ndarray, "height width"], segment_ids: Int[np.ndarray, " segments"], *, index_zero: bool = False
) -> SegmentIndex:
    """Replace the ids of a map by the positions (from 1) of these ids in `segment_ids`, which must be distinct.

    With `index_zero`, pixels of id 0 become one more segment behind the last of the list, where there are any.
    """
    # runs of equal pixels along the rows; none crosses from one row to the next
    first = np.ones(ids.shape, dtype=bool)
    np.not_equal(ids[:, 1:], ids[:, :-1], out=first[:, 1:])
    starts = np.flatnonzero(first)
    lengths = np.diff(starts, append=ids.size)
    values, inverse = np.unique(ids.reshape(-1)[starts], return_inverse=True)
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
    areas = np.bincount(run_index, weights=lengths, minlength=count + 1).astype(np.int64)
    return SegmentIndex(
        index=np.repeat(run_index, lengths).reshape(ids.shape),
        areas=areas,
        unknown=unknown.astype(np.int64),
        absent=np.asarray(segment_ids)[areas[1 : len(segment_ids) + 1] == 0].astype(np.int64),
    )


def segment_boxes(index: UInt[np.ndarray, "height width"], num_segments: int) -> Int[np.ndarray, "entries 4"]:
    """COCO boxes (x, y, width, height) in pixels of the segments 0..num_segments; zeros where one has no pixel."""
    boxes = np.zeros((num_segments + 1, 4), dtype=np.int64)
    # find_objects takes 0 for background
    found = ndimage.find_objects(index.astype(np.int32) + 1, max_label=num_segments + 1)
    for box, place in zip(boxes, found, strict=True):
        if place is not None:
            rows, columns = place
            box[:] = columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start
    return boxes
