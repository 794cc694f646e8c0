"""One image's target and predicted segments, matched as COCO's panoptic evaluator matches them."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from ..core.errors import InputError

Crowd = Literal["official", "corrected"]
Segments = Sequence[Mapping[str, Any]]

NUM_IDS = 1 << 24
VOID = 0
_UNKNOWN_ROW, _VOID_ROW, _FIRST_ROW = 0, 1, 2


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
    table = _contingency(target_ids, targets, predicted_ids, predictions)

    target_area = table[_FIRST_ROW:].sum(1)
    predicted_area = table[:, _FIRST_ROW:].sum(0)
    on_void = table[_VOID_ROW, _FIRST_ROW:]
    common = table[_FIRST_ROW:, _FIRST_ROW:]
    is_crowd = np.fromiter((s.get("iscrowd", 0) == 1 for s in target_segments), bool, len(target_segments))

    union = target_area[:, None] + (predicted_area - on_void)[None] - common
    # integers decide the match, so that exactly half is never rounded up to more than half
    matched = (2 * common > union) & (target_class[:, None] == predicted_class[None]) & ~is_crowd[:, None]
    rows, columns = matched.nonzero()
    target_iou = np.zeros(len(targets))
    target_iou[rows] = common[rows, columns] / union[rows, columns]

    forgiven = on_void.copy()
    crowd_rows = is_crowd.nonzero()[0].tolist()
    if crowd == "official":
        crowd_rows = list({int(target_class[row]): row for row in crowd_rows}.values())
    for row in crowd_rows:
        forgiven += common[row] * (predicted_class == target_class[row])
    is_false_positive = 2 * forgiven <= predicted_area
    is_false_positive[columns] = False
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
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= NUM_IDS):
        raise InputError(f"the {what} map has ids from {ids.min()} to {ids.max()}; ids lie in 0 .. {NUM_IDS - 1}")
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
        if not 0 < segment_id < NUM_IDS:
            raise InputError(f"{what} segment {segment_id} is out of range; ids lie in 1 .. {NUM_IDS - 1}, 0 is void")
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


_thread = threading.local()


def _rows_by_id() -> np.ndarray:
    """A table over all ids, this thread's own, all _UNKNOWN_ROW between uses; pages never touched take no memory."""
    if not hasattr(_thread, "table"):
        _thread.table = np.zeros(NUM_IDS, np.uint16)
    return _thread.table


def _rows(ids: np.ndarray, listed: np.ndarray) -> np.ndarray:
    table = _rows_by_id()
    try:
        table[VOID] = _VOID_ROW
        table[listed] = np.arange(_FIRST_ROW, _FIRST_ROW + len(listed))
        return table[ids]
    finally:
        table[VOID] = _UNKNOWN_ROW
        table[listed] = _UNKNOWN_ROW


def _contingency(
    target_ids: np.ndarray, targets: np.ndarray, predicted_ids: np.ndarray, predictions: np.ndarray
) -> Int[np.ndarray, "targets+2 predictions+2"]:
    """Pixels per (target, prediction); the first rows and columns are unlisted ids (empty) and void.

    Counted by runs: neighbours in a row of pixels mostly agree in both maps, so the lookup and the counting see some
    thousand runs instead of all pixels, and nothing is sorted.
    """
    for segments, what in ((targets, "target"), (predictions, "predicted")):
        if len(segments) + _FIRST_ROW > np.iinfo(np.uint16).max:
            raise InputError(f"{len(segments)} {what} segments in one image; at most 65,533 are supported")
    flat_targets, flat_predictions = target_ids.ravel(), predicted_ids.ravel()
    shape = (len(targets) + _FIRST_ROW, len(predictions) + _FIRST_ROW)
    changes = (flat_targets[1:] != flat_targets[:-1]) | (flat_predictions[1:] != flat_predictions[:-1])
    ends = np.flatnonzero(changes)
    if flat_targets.size:
        ends = np.append(ends, flat_targets.size - 1)
    lengths = np.diff(ends, prepend=-1)
    run_targets, run_predictions = flat_targets[ends], flat_predictions[ends]
    rows, columns = _rows(run_targets, targets), _rows(run_predictions, predictions)
    keys = rows.astype(np.intp) * shape[1] + columns
    # weights are doubles, exact up to 2**53 pixels
    table = np.bincount(keys, lengths, shape[0] * shape[1]).astype(np.int64).reshape(shape)
    _refuse_unlisted(table[_UNKNOWN_ROW], run_targets[rows == _UNKNOWN_ROW], "target")
    _refuse_unlisted(table[:, _UNKNOWN_ROW], run_predictions[columns == _UNKNOWN_ROW], "predicted")
    _refuse_absent(table.sum(1)[_FIRST_ROW:], targets, "target")
    _refuse_absent(table.sum(0)[_FIRST_ROW:], predictions, "predicted")
    return table


def _refuse_unlisted(pixels: np.ndarray, ids: np.ndarray, what: str) -> None:
    if len(ids):
        raise InputError(
            f"{what} segment {_some(ids)} is on the map ({int(pixels.sum())} pixels) but not listed; "
            "list it, or set its pixels to 0"
        )


def _refuse_absent(areas: np.ndarray, listed: np.ndarray, what: str) -> None:
    if (areas == 0).any():
        raise InputError(f"{what} segment {_some(listed[areas == 0])} is listed but has no pixel on the map; drop it")


def _some(ids: Iterable[int]) -> str:
    distinct = sorted({int(i) for i in ids})
    return ", ".join(map(str, distinct[:5])) + (f" and {len(distinct) - 5} more" if len(distinct) > 5 else "")
