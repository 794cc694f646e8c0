"""Segments as they were sampled: before they get classes, and before equal stuff hides what was split."""

import numpy as np

from ..pipeline.output import PanopticOutput


def instance_maps(output: PanopticOutput, count: int | None = None) -> PanopticOutput:
    """The instance ids of the first `count` images of `output` (None: of all) as predictions without classes."""
    maps = output.instance_ids[:count]
    segments = []
    for ids in maps:
        found, areas = np.unique(ids[ids > 0], return_counts=True)
        segments.append([{"id": int(i), "category_id": None, "area": int(a)} for i, a in zip(found, areas)])
    nothing = [None] * len(maps)
    return PanopticOutput(maps, segments, maps, list(nothing), list(nothing), output.categories)
