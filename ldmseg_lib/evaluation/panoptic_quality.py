"""Panoptic quality (PQ = SQ x RQ; Kirillov et al., CVPR 2019), counted exactly as COCO's evaluator counts it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from jaxtyping import Int

from ..core.errors import InputError
from .counts import MatchCounts
from .matching import Crowd, SegmentMatches, Segments, match_segments

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
        self._counts = MatchCounts(len(self.categories))

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
        targets = zip(matches.target_class.tolist(), matches.target_iou.tolist(), strict=True)
        self._counts.add(targets, matches.predicted_class[matches.is_false_positive].tolist())
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
        self._counts.merge(other._counts)
        self.images += other.images
        return self

    def counts(self) -> dict[int, dict[str, float]]:
        """Raw counts per category id: `tp`, `fp`, `fn`, and `iou_sum` over the true positives."""
        return {category["id"]: self._counts.counts(k) for k, category in enumerate(self.categories)}

    def compute(self) -> dict[str, Any]:
        """PQ, SQ and RQ in [0, 1]: `{"All": {"pq", "sq", "rq", "n"}, "Things": …, "Stuff": …, "per_class": {id: …}}`.

        A group averages its categories that occur in targets or predictions, `n` of them; with none, its values are
        None. An entry of `per_class` has `pq`, `sq`, `rq` (None where the category does not occur), `name`, `isthing`
        and the raw counts.
        """
        per_class = {
            category["id"]: {
                **self._counts.quality(k),
                "name": category["name"],
                "isthing": int(category["isthing"]),
                **self._counts.counts(k),
            }
            for k, category in enumerate(self.categories)
        }
        classes = list(per_class.values())
        return {
            "All": _mean(classes),
            "Things": _mean([c for c in classes if c["isthing"]]),
            "Stuff": _mean([c for c in classes if not c["isthing"]]),
            "per_class": per_class,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values, to be sent between processes or stored. Integers may pass 2**53."""
        return {**self._rules(), "images": self.images, **self._counts.state_dict()}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Self:
        """The metric that `state_dict` described.

        Raises:
            InputError: it is something else.
        """
        try:
            metric = cls(state["categories"], class_agnostic=state["class_agnostic"], crowd=state["crowd"])
            metric.images = int(state["images"])
            metric._counts.load_state_dict(state)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"this is no state of PanopticQuality ({error})") from None
        return metric

    def _rules(self) -> dict[str, Any]:
        return {"categories": self.categories, "class_agnostic": self.class_agnostic, "crowd": self.crowd}


def _mean(classes: Sequence[Mapping[str, Any]]) -> dict[str, float | int | None]:
    occurring = [c for c in classes if c["pq"] is not None]
    means = {key: sum(c[key] for c in occurring) / len(occurring) if occurring else None for key in ("pq", "sq", "rq")}
    return {**means, "n": len(occurring)}
