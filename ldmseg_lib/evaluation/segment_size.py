"""Panoptic quality by the size of segments: small ones are the first to be missed (Supplement C, limitation i)."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from ..core.errors import InputError
from .counts import MatchCounts
from .matching import SegmentMatches


class SegmentSizeQuality:
    """Streaming PQ, SQ, RQ and recall for each range of segment areas, all classes counted together.

    Targets, matched or missed, are counted by their own area; a false positive has no target and is counted by its own
    area. A large prediction that swallows small targets is thus a miss of the small and an error of the large ones.

    Args:
        edges: areas in pixels where a range begins, increasing from 0; the last range has no end. The default are
            COCO's small, medium and large.
    """

    def __init__(self, edges: Sequence[int] = (0, 32**2, 96**2)) -> None:
        if not edges or edges[0] != 0 or list(edges) != sorted(set(edges)):
            raise InputError(f"edges={list(edges)}; give increasing areas that begin with 0")
        self.edges = [int(edge) for edge in edges]
        self._counts = MatchCounts(len(self.edges))

    def add(self, matches: SegmentMatches) -> None:
        """Add one image: what `PanopticQuality.update` or `match_segments` returned for it."""
        target_range, predicted_range = (
            (np.searchsorted(self.edges, areas, side="right") - 1)
            for areas in (matches.target_area, matches.predicted_area[matches.is_false_positive])
        )
        targets = zip(target_range.tolist(), matches.target_iou.tolist(), strict=True)
        self._counts.add(targets, predicted_range.tolist())

    def merge(self, other: Self) -> Self:
        """Add what `other` counted on other images; returns self.

        Raises:
            InputError: `other` has other ranges.
        """
        if self.edges != other.edges:
            raise InputError(f"ranges of areas differ: {self.edges} and {other.edges}; merge counts of one evaluation")
        self._counts.merge(other._counts)
        return self

    def compute(self) -> list[dict[str, Any]]:
        """One entry a range: `min_area` and `max_area` (pixels, the last one None), `pq`, `sq`, `rq` and `recall` in
        [0, 1] (None where nothing falls in the range), and the raw counts."""
        entries = []
        for k, edge in enumerate(self.edges):
            counts = self._counts.counts(k)
            targets = counts["tp"] + counts["fn"]
            entries.append(
                {
                    "min_area": edge,
                    "max_area": self.edges[k + 1] - 1 if k + 1 < len(self.edges) else None,
                    **self._counts.quality(k),
                    "recall": counts["tp"] / targets if targets else None,
                    **counts,
                }
            )
        return entries

    def state_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {"edges": list(self.edges), **self._counts.state_dict()}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Self:
        """The metric that `state_dict` described.

        Raises:
            InputError: it is something else.
        """
        try:
            metric = cls(state["edges"])
            metric._counts.load_state_dict(state)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"this is no state of SegmentSizeQuality ({error})") from None
        return metric
