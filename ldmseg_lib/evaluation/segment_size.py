"""Panoptic quality by the size of segments: small ones are the first to be missed (Supplement C, limitation i)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..core.errors import InputError
from .matching import SegmentMatches
from .streaming import GroupedQuality


class SegmentSizeQuality(GroupedQuality):
    """Streaming PQ, SQ, RQ and recall for each range of segment areas, all classes counted together.

    Targets, matched or missed, are counted by their own area; a false positive has no target and is counted by its own
    area. A large prediction that swallows small targets is thus a miss of the small and an error of the large ones.

    Args:
        edges: areas in pixels where a range begins, increasing from 0; the last range has no end. The default are
            COCO's small, medium and large.

    Example:
        >>> import numpy as np
        >>> from ldmseg_lib import PanopticQuality
        >>> from ldmseg_lib.evaluation import SegmentSizeQuality
        >>> quality = PanopticQuality([{"id": 1, "name": "ball", "isthing": 1}])
        >>> by_size = SegmentSizeQuality(edges=(0, 16))
        >>> target = np.repeat([[1, 1, 1, 1, 0, 0, 2, 2]], 4, axis=0)  # areas 16 and 8
        >>> segments = [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 1}]
        >>> by_size.add(quality.update(target, segments, np.where(target == 1, 1, 0), segments[:1]))
        >>> [(entry["min_area"], entry["recall"]) for entry in by_size.compute()]
        [(0, 0.0), (16, 1.0)]
    """

    settings = ("edges",)
    sums = ("totals",)

    def __init__(self, edges: Sequence[int] = (0, 32**2, 96**2)) -> None:
        if not edges or edges[0] != 0 or list(edges) != sorted(set(edges)):
            raise InputError(f"edges={list(edges)}; give increasing areas that begin with 0")
        self.edges = [int(edge) for edge in edges]
        super().__init__(len(self.edges))

    def add(self, matches: SegmentMatches) -> None:
        """Add one image: what `PanopticQuality.update` or `match_segments` returned for it."""
        target_range, predicted_range = (
            np.searchsorted(self.edges, areas, side="right") - 1
            for areas in (matches.target_area, matches.predicted_area[matches.is_false_positive])
        )
        self.count(target_range, matches.target_iou, predicted_range)

    def compute(self) -> list[dict[str, Any]]:
        """One entry a range: `min_area` and `max_area` (pixels, the last one None), `pq`, `sq`, `rq` and `recall` in
        [0, 1] (None where nothing falls in the range), and the raw counts."""
        entries = []
        for k, (edge, following) in enumerate(zip(self.edges, [*self.edges[1:], None], strict=True)):
            counts = self.group_counts(k)
            targets = counts["tp"] + counts["fn"]
            areas = {"min_area": edge, "max_area": following and following - 1}
            recall = counts["tp"] / targets if targets else None
            entries.append({**areas, **self.group_quality(k), "recall": recall, **counts})
        return entries
