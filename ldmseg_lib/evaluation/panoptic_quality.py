"""Panoptic quality (PQ = SQ x RQ; Kirillov et al., CVPR 2019), counted exactly as COCO's evaluator counts it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from ..core.errors import InputError
from .matching import Crowd, SegmentMatches, Segments, match_segments
from .streaming import GroupedQuality

AGNOSTIC_CATEGORY = {"id": 1, "name": "segment", "isthing": 1}


class PanopticQuality(GroupedQuality):
    """Streaming PQ, SQ and RQ. Any split of the images, merged in any order, gives the same bits.

    Args:
        categories: COCO categories, dicts with `id`, `name` and `isthing`.
        class_agnostic: treat every segment, thing or stuff, as one thing class (category 1); categories of segments are
            then not read.
        crowd: "official" forgives predictions on crowd as COCO's evaluator does, which remembers only the last crowd
            segment of a category in an image (of all of them, when class-agnostic); "corrected" honours every one.

    Raises:
        InputError: a category lacks a key or occurs twice, or `crowd` is neither of the two.

    Example:
        >>> import numpy as np
        >>> from ldmseg_lib import PanopticQuality
        >>> metric = PanopticQuality([{"id": 1, "name": "ball", "isthing": 1}])
        >>> target = np.repeat([[1, 1, 1, 1, 0, 0, 0, 0]], 8, axis=0)
        >>> predicted = np.repeat([[2, 2, 2, 0, 0, 0, 0, 0]], 8, axis=0)
        >>> matches = metric.update(target, [{"id": 1, "category_id": 1}], predicted, [{"id": 2, "category_id": 1}])
        >>> metric.compute()["All"]
        {'pq': 0.75, 'sq': 0.75, 'rq': 1.0, 'n': 1}
    """

    settings = ("categories", "class_agnostic", "crowd")
    sums = ("images", "totals")

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
        super().__init__(len(self.categories))

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
        maps = (target_ids, target_segments, predicted_ids, predicted_segments)
        matches = match_segments(*maps, class_of=self._class_of, crowd=self.crowd)
        self.add(matches)
        return matches

    def add(self, matches: SegmentMatches) -> None:
        """Add the matches of one image, made by `match_segments` with the same categories and crowd rule."""
        self.count(matches.target_class, matches.target_iou, matches.predicted_class[matches.is_false_positive])
        self.images += 1

    def counts(self) -> dict[int, dict[str, float]]:
        """Raw counts per category id: `tp`, `fp`, `fn`, and `iou_sum` over the true positives."""
        return {category["id"]: self.group_counts(k) for k, category in enumerate(self.categories)}

    def compute(self) -> dict[str, Any]:
        """PQ, SQ and RQ in [0, 1]: `{"All": {"pq", "sq", "rq", "n"}, "Things": …, "Stuff": …, "per_class": {id: …}}`.

        A group averages its categories that occur in targets or predictions, `n` of them; with none, its values are
        None. An entry of `per_class` has `pq`, `sq`, `rq` (None where the category does not occur), `name`, `isthing`
        and the raw counts.
        """
        per_class = {
            category["id"]: {
                **self.group_quality(k),
                "name": category["name"],
                "isthing": int(category["isthing"]),
                **self.group_counts(k),
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


def _mean(classes: Sequence[Mapping[str, Any]]) -> dict[str, float | int | None]:
    occurring = [c for c in classes if c["pq"] is not None]
    means = {key: sum(c[key] for c in occurring) / len(occurring) if occurring else None for key in ("pq", "sq", "rq")}
    return {**means, "n": len(occurring)}
