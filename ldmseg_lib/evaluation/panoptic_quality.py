"""Panoptic quality (PQ = SQ x RQ; Kirillov et al., CVPR 2019), counted exactly as COCO's evaluator counts it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from jaxtyping import Int

from ..errors import InputError
from .matching import Crowd, SegmentMatches, Segments, match_segments

# an IoU over one half is a whole number of these, so its sums are exact and do not depend on their order
_IOU_UNIT = 1 << 53

AGNOSTIC_CATEGORY = {"id": 1, "name": "segment", "isthing": 1}


class PanopticQuality:
    """Streaming PQ, SQ and RQ. Any split of the images, merged in any order, gives the same bits.

    Args:
        categories: COCO categories, dicts with `id`, `name` and `isthing`.
        class_agnostic: treat every segment, thing or stuff, as one thing class (category 1); categories of segments are
            then not read.
        crowd: "official" forgives predictions on crowd as COCO's evaluator does, which remembers only the last crowd
            segment of a category in an image (of all of them, when class-agnostic); "corrected" honours every one.

    Raises:
        InputError: a category lacks a key or occurs twice, or `crowd` is neither of the two.
    """

    def __init__(
        self, categories: Iterable[Mapping[str, Any]], class_agnostic: bool = False, crowd: Crowd = "official"
    ) -> None:
        categories = list(categories)
        if crowd not in ("official", "corrected"):
            raise InputError(f'crowd={crowd!r}; give "official" or "corrected"')
        for category in categories:
            if missing := {"id", "name", "isthing"} - category.keys():
                raise InputError(f"category {category!r} lacks {', '.join(sorted(missing))}")
        if len({c["id"] for c in categories}) != len(categories):
            raise InputError("a category id occurs twice; give each category once")
        self.class_agnostic = class_agnostic
        self.crowd: Crowd = crowd
        self.categories = [AGNOSTIC_CATEGORY] if class_agnostic else categories
        self._class_of = None if class_agnostic else {c["id"]: k for k, c in enumerate(categories)}
        self.images = 0
        self._tp = [0] * len(self.categories)
        self._fp = [0] * len(self.categories)
        self._fn = [0] * len(self.categories)
        self._iou = [0] * len(self.categories)

    def update(
        self,
        target_ids: Int[np.ndarray, "height width"],
        target_segments: Segments,
        predicted_ids: Int[np.ndarray, "height width"],
        predicted_segments: Segments,
    ) -> SegmentMatches:
        """Add one image and return its matches.

        Args:
            target_ids, predicted_ids: segment ids in 0 .. 2**24 - 1, 0 is void.
            target_segments, predicted_segments: dicts with `id`, `category_id` and, on targets, `iscrowd`, listing
                exactly the ids on the map; areas are counted on the map.

        Raises:
            InputError: maps and lists disagree (see `match_segments`); nothing is added then.
        """
        matches = match_segments(
            target_ids,
            target_segments,
            predicted_ids,
            predicted_segments,
            class_of=self._class_of,
            crowd=self.crowd,
        )
        self.add(matches)
        return matches

    def add(self, matches: SegmentMatches) -> None:
        """Add the matches of one image, made by `match_segments` with the same categories and crowd rule."""
        for k, iou in zip(matches.target_class.tolist(), matches.target_iou.tolist(), strict=True):
            if iou > 0:
                self._tp[k] += 1
                self._iou[k] += int(iou * _IOU_UNIT)
            else:
                self._fn[k] += 1
        for k in matches.predicted_class[matches.is_false_positive].tolist():
            self._fp[k] += 1
        self.images += 1

    def merge(self, other: Self) -> Self:
        """Add what `other` counted on other images; returns self.

        Raises:
            InputError: `other` was made with other categories or another rule.
        """
        if self._rules() != other._rules():
            raise InputError(
                "these counts differ in categories, class_agnostic or crowd; merge counts of one evaluation"
            )
        for mine, theirs in zip(self._counters(), other._counters(), strict=True):
            mine[:] = [a + b for a, b in zip(mine, theirs, strict=True)]
        self.images += other.images
        return self

    def counts(self) -> dict[int, dict[str, float]]:
        """Raw counts per category id: `tp`, `fp`, `fn`, and `iou_sum` over the true positives."""
        return {
            category["id"]: {"tp": tp, "fp": fp, "fn": fn, "iou_sum": iou / _IOU_UNIT}
            for category, tp, fp, fn, iou in zip(self.categories, *self._counters(), strict=True)
        }

    def compute(self) -> dict[str, Any]:
        """PQ, SQ and RQ in [0, 1]: `{"All": {"pq", "sq", "rq", "n"}, "Things": …, "Stuff": …, "per_class": {id: …}}`.

        A group averages its categories that occur in targets or predictions, `n` of them; with none, its values are
        None. An entry of `per_class` has `pq`, `sq`, `rq` (None where the category does not occur), `name`, `isthing`
        and the raw counts.
        """
        per_class = {}
        for category, counts in zip(self.categories, self.counts().values(), strict=True):
            head = {"name": category["name"], "isthing": int(category["isthing"])}
            per_class[category["id"]] = {**_quality(**counts), **head, **counts}
        classes = list(per_class.values())
        return {
            "All": _mean(classes),
            "Things": _mean([c for c in classes if c["isthing"]]),
            "Stuff": _mean([c for c in classes if not c["isthing"]]),
            "per_class": per_class,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values, to be sent between processes or stored. Integers may pass 2**53."""
        keys = ("tp", "fp", "fn", "iou_units")
        return {**self._rules(), "images": self.images, **dict(zip(keys, map(list, self._counters()), strict=True))}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Self:
        """The metric that `state_dict` described."""
        try:
            metric = cls(state["categories"], crowd=state["crowd"])
            metric.class_agnostic = state["class_agnostic"]
            metric._class_of = None if metric.class_agnostic else metric._class_of
            metric.images = state["images"]
            for mine, key in zip(metric._counters(), ("tp", "fp", "fn", "iou_units"), strict=True):
                mine[:] = [a + b for a, b in zip(mine, state[key], strict=True)]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"this is no state of PanopticQuality ({error!r})") from None
        return metric

    def _rules(self) -> dict[str, Any]:
        return {"categories": self.categories, "class_agnostic": self.class_agnostic, "crowd": self.crowd}

    def _counters(self) -> tuple[list[int], list[int], list[int], list[int]]:
        return self._tp, self._fp, self._fn, self._iou


def _quality(tp: int, fp: int, fn: int, iou_sum: float) -> dict[str, float | None]:
    if tp + fp + fn == 0:
        return {"pq": None, "sq": None, "rq": None}
    denominator = tp + fp / 2 + fn / 2
    return {"pq": iou_sum / denominator, "sq": iou_sum / tp if tp else 0.0, "rq": tp / denominator}


def _mean(classes: Sequence[Mapping[str, Any]]) -> dict[str, float | int | None]:
    occurring = [c for c in classes if c["pq"] is not None]
    means = {key: sum(c[key] for c in occurring) / len(occurring) if occurring else None for key in ("pq", "sq", "rq")}
    return {**means, "n": len(occurring)}
