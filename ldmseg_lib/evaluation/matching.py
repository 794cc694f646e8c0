"""One image's target and predicted segments, matched as COCO's panoptic evaluator matches them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from ..core.errors import InputError
from ..data.pixels import ID_LIMIT
from ..data.segment_maps import SegmentIndex, index_segments

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
    table = _contingency(target_ids, targets, predicted_ids, predictions)

    target_area, predicted_area = table[1:].sum(1), table[:, 1:].sum(0)
    on_void, common = table[0, 1:], table[1:, 1:]
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


def _contingency(
    target_ids: np.ndarray, targets: np.ndarray, predicted_ids: np.ndarray, predictions: np.ndarray
) -> Int[np.ndarray, "targets+1 predictions+1"]:
    """Pixels per (target, prediction); the first row and column are void."""
    rows, columns = index_segments(target_ids, targets), index_segments(predicted_ids, predictions)
    _refuse_other_ids(target_ids, rows, "target")
    _refuse_other_ids(predicted_ids, columns, "predicted")
    shape = (len(targets) + 1, len(predictions) + 1)
    keys = rows.index.astype(np.intp) * shape[1] + columns.index
    return np.bincount(keys.ravel(), minlength=shape[0] * shape[1]).reshape(shape)


def _refuse_other_ids(ids: np.ndarray, found: SegmentIndex, what: str) -> None:
    if len(found.unknown):
        raise InputError(
            f"{what} segment {_some(found.unknown)} is on the map ({np.isin(ids, found.unknown).sum()} pixels) but not"
            " listed; list it, or set its pixels to 0"
        )
    if len(found.absent):
        raise InputError(f"{what} segment {_some(found.absent)} is listed but has no pixel on the map; drop it")


def _some(ids: Iterable[int]) -> str:
    distinct = sorted({int(i) for i in ids})
    return ", ".join(map(str, distinct[:5])) + (f" and {len(distinct) - 5} more" if len(distinct) > 5 else "")
