"""Statistics of a split: segments per image, segment sizes and classes."""

from typing import Any

import numpy as np
from tqdm.auto import tqdm

from .panoptic import PanopticDataset


def split_statistics(dataset: PanopticDataset) -> dict[str, Any]:
    """Counts over the ground truth of a split, as JSON values.

    Returns:
        `images`, `segments`, `mean_segments`; `segments_per_image` and `area_shares` (a segment's pixels over its
        image's), one entry an image or a segment; `classes`: {name: number of segments}; `has_depth`.
    """
    names = {category["id"]: category["name"] for category in dataset.categories}
    classes = dict.fromkeys(names.values(), 0)
    counts, shares = [], []
    for index in tqdm(range(len(dataset)), desc=f"statistics of {dataset.split}", unit="image"):
        truth = dataset.ground_truth(index)
        counts.append(len(truth.segments))
        for segment in truth.segments:
            classes[names[segment["category_id"]]] += 1
            shares.append(round(segment["area"] / truth.ids.size, 6))
    return {
        "images": len(dataset),
        "segments": len(shares),
        "mean_segments": float(np.mean(counts)),
        "segments_per_image": counts,
        "area_shares": shares,
        "classes": classes,
        "has_depth": dataset.has_depth,
    }
