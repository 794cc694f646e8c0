"""One image's target and predicted segments, matched as COCO's panoptic evaluator matches them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from ..core.errors import InputError
from ..data.pixels import ID_LIMIT
from ..data.values import as_flag

Crowd = Literal["official", "corrected"]
Segments = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class SegmentMatches:
    """Matches and misses of one image. Target arrays have one entry a segment that is not crowd."""

    target_class: Int[np.ndarray, " targets"]
    target_area: Int[np.ndarray, " targets"]
    target_iou: Float[np.ndarray, " targets"]  # IoU with the match, in (0.5, 1]; 0 where the segment was missed
    predicted_class: Int[np.ndarray, " predictions"]
    predicted_area: Int[np.ndarray, " predictions"]
    is_false_positive: Bool[np.ndarray, " predictions"]  # unmatched, and not forgiven for lying on void or crowd


def match_segments(
    target_ids: Int[np.ndarray, "height width"],
    target_segments: Segments,
    predicted_ids: Int[np.ndarray, "height width"],
    predicted_segments: Segments,
    *,
    class_of: Mapping[int, int] | None,
    crowd: Crowd = "official",
) -> SegmentMatches:
    """Match the segments of one image by the rules of COCO's evaluator (panopticapi; Kirillov et al., CVPR 2019).

    A pair matches if its classes agree, the target is not crowd, and IoU > 0.5 with the prediction's pixels on void
    left out of the union. An unmatched prediction is forgiven if more than half of it lies on void and on crowd of its
    class: with `crowd="official"` on the last listed crowd segment of that class, which is all that evaluator
    remembers, with "corrected" on every one. Areas are counted on the maps.

    Args:
        target_ids, predicted_ids: segment ids in 0 .. 2**24 - 1, 0 is void.
        target_segments, predicted_segments: dicts with `id`, `category_id` and, on targets, `iscrowd`; they list
            exactly the ids on the map.
        class_of: index of each category id; None puts everything in class 0 and reads no category.

    Raises:
        InputError: sizes differ, an id is on the map but not in the list or the reverse, is listed twice, or is out of
            range, or a category is unknown.
    """
    target_ids, predicted_ids = _checked(target_ids, "target"), _checked(predicted_ids, "predicted")
    if target_ids.shape != predicted_ids.shape:
        sizes = " but the target map is ".join("x".join(map(str, a.shape[::-1])) for a in (predicted_ids, target_ids))
        raise InputError(f"the predicted map is {sizes} pixels; predict at the size of the ground truth")
    targets, target_class = _listed(target_segments, class_of, "target")
    predictions, predicted_class = _listed(predicted_segments, class_of, "predicted")
    rows, columns, common = _overlaps(target_ids, targets, predicted_ids, predictions)

    target_area = _sums(rows, common, len(targets))
    predicted_area = _sums(columns, common, len(predictions))
    on_void = _sums(columns[rows == 0], common[rows == 0], len(predictions))
    is_crowd = np.fromiter(map(_crowd, target_segments), bool, len(target_segments))
    inner = (rows > 0) & (columns > 0)
    rows, columns, common = rows[inner] - 1, columns[inner] - 1, common[inner]

    same_class = target_class[rows] == predicted_class[columns]
    union = target_area[rows] + predicted_area[columns] - on_void[columns] - common
    # integers decide the match, so that exactly half is never rounded up to more than half
    matched = (2 * common > union) & same_class & ~is_crowd[rows]
    target_iou = np.zeros(len(targets))
    target_iou[rows[matched]] = common[matched] / union[matched]

    forgiving = is_crowd
    if crowd == "official":
        last_of_class = {int(target_class[row]): row for row in is_crowd.nonzero()[0].tolist()}
        forgiving = np.zeros(len(targets), bool)
        forgiving[list(last_of_class.values())] = True
    on_crowd = same_class & forgiving[rows]
    forgiven = on_void + _sums(columns[on_crowd] + 1, common[on_crowd], len(predictions))
    is_false_positive = 2 * forgiven <= predicted_area
    is_false_positive[columns[matched]] = False
    counted = ~is_crowd
    return SegmentMatches(
        target_class[counted],
        target_area[counted],
        target_iou[counted],
        predicted_class,
        predicted_area,
        is_false_positive,
    )


def _checked(ids: np.ndarray, what: str) -> np.ndarray:
    ids = np.asarray(ids)
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise InputError(
            f"the {what} map is {ids.dtype} of shape {ids.shape}; give integer ids of shape (height, width)"
        )
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= ID_LIMIT):
        raise InputError(f"the {what} map has ids from {ids.min()} to {ids.max()}; ids lie in 0 .. {ID_LIMIT - 1}")
    return ids


def _listed(segments: Segments, class_of: Mapping[int, int] | None, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids and class indices of listed segments."""
    ids, classes, seen = [], [], set()
    for segment in segments:
        segment_id = segment.get("id")
        if type(segment_id) is not int:
            if not isinstance(segment_id, np.integer):
                raise InputError(f"a {what} segment has id {segment_id!r}; each needs an integer id")
            segment_id = int(segment_id)
        if not 0 < segment_id < ID_LIMIT:
            raise InputError(f"{what} segment {segment_id} is out of range; ids lie in 1 .. {ID_LIMIT - 1}, 0 is void")
        if segment_id in seen:
            raise InputError(f"{what} segment {segment_id} is listed twice; list each segment once")
        seen.add(segment_id)
        ids.append(segment_id)
        if class_of is None:
            classes.append(0)
            continue
        category: Any = segment.get("category_id")
        try:
            # as keys, true and 1.0 are equal to 1
            index = None if isinstance(category, bool | float) else class_of.get(category)
        except TypeError:
            index = None
        if index is None:
            raise InputError(
                f"{what} segment {segment_id} has category_id {category!r}, which the list of categories lacks"
            )
        classes.append(index)
    return np.array(ids, np.int64), np.array(classes, np.int64)


def _crowd(segment: Mapping[str, Any]) -> int:
    flag = as_flag(segment.get("iscrowd"), 0)
    if flag is None:
        raise InputError(f"target segment {segment['id']}: iscrowd is {segment['iscrowd']!r}; write 0 or 1")
    return flag


def _overlaps(
    target_ids: np.ndarray, targets: np.ndarray, predicted_ids: np.ndarray, predictions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs (target, prediction) that share pixels, as places from 1 in the lists (0 is void), and their pixels.

    Counted by runs: neighbours in a row of pixels mostly agree in both maps, so the lookup and the counting see some
    thousand runs instead of all pixels. Pairs that share nothing are never made: time is linear in the segments.
    """
    flat_targets, flat_predictions = target_ids.ravel(), predicted_ids.ravel()
    changes = flat_targets[1:] != flat_targets[:-1]
    changes |= flat_predictions[1:] != flat_predictions[:-1]
    ends = np.append(np.flatnonzero(changes), flat_targets.size - 1) if flat_targets.size else np.zeros(0, np.intp)
    lengths = np.diff(ends, prepend=-1)
    rows = _places(flat_targets[ends], targets, lengths, "target")
    columns = _places(flat_predictions[ends], predictions, lengths, "predicted")
    width = len(predictions) + 1
    keys = rows * width + columns
    size = (len(targets) + 1) * width
    if size > 4 * len(keys):
        pairs, keys = np.unique(keys, return_inverse=True)
        counts = np.bincount(keys, lengths, len(pairs))
    else:
        counts = np.bincount(keys, lengths, size)
        pairs = np.flatnonzero(counts)
        counts = counts[pairs]
    # weights are doubles, exact up to 2**53 pixels
    return pairs // width, pairs % width, counts.astype(np.int64)


def _places(ids: np.ndarray, listed: np.ndarray, lengths: np.ndarray, what: str) -> Int[np.ndarray, " runs"]:
    """Places from 1 in `listed` of the ids of runs; 0 for void.

    Raises:
        InputError: an id that is not listed, or a listed one that no run has.
    """
    order = np.argsort(listed)
    # void before all others, whose ids are positive
    known = np.concatenate([[0], listed[order]])
    found = np.searchsorted(known[1:], ids, side="right")
    unlisted = known[found] != ids
    if unlisted.any():
        raise InputError(
            f"{what} segment {_some(ids[unlisted])} is on the map ({lengths[unlisted].sum()} pixels) but not listed; "
            "list it, or set its pixels to 0"
        )
    present = np.bincount(found, minlength=len(known)) > 0
    if not present[1:].all():
        raise InputError(
            f"{what} segment {_some(known[1:][~present[1:]])} is listed but has no pixel on the map; drop it"
        )
    return np.concatenate([[0], order + 1])[found]


def _sums(places: np.ndarray, pixels: np.ndarray, count: int) -> Int[np.ndarray, " segments"]:
    """Pixels of the segments 1..count."""
    return np.bincount(places, pixels, count + 1)[1:].astype(np.int64)


def _some(ids: Iterable[int]) -> str:
    distinct = sorted({int(i) for i in ids})
    return ", ".join(map(str, distinct[:5])) + (f" and {len(distinct) - 5} more" if len(distinct) > 5 else "")
