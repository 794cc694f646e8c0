"""Scores by segment size: of a pipeline's predictions and of an autoencoder's reconstructions.

Small background objects are what the projection to latents loses (supplement C).
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...data.panoptic import GroundTruth, PanopticDataset
from ...evaluation.panoptic_quality import PanopticQuality
from ...evaluation.segment_size import SegmentSizeQuality
from ...models.autoencoder import MaskAutoencoder
from ...pipeline.ldmseg import LDMSegPipeline
from ...pipeline.postprocess import instances_from_logits
from ..reconstruction import decoded_batches
from ..segmentation import Cleaning, SegmentationScores, agnostic_segments, sample_split

_GROUPS = {"panoptic": "All", "things": "Things", "stuff": "Stuff"}


class SizeScores:
    """Class-agnostic PQ of all segments, and by their area at the image's own size."""

    def __init__(self, dataset: PanopticDataset, area_edges: Sequence[int]) -> None:
        self.quality = PanopticQuality(dataset.categories, class_agnostic=True)
        self.sizes = SegmentSizeQuality(area_edges)

    def update(self, truth: GroundTruth, ids: np.ndarray) -> None:
        """Add one image, `ids` being its predicted instance ids, 0 void."""
        self.sizes.add(self.quality.update(truth.ids, truth.segments, ids, agnostic_segments(ids)))

    def compute(self) -> dict[str, Any]:
        """{"class_agnostic": PQ, SQ and RQ in [0, 1], "sizes": as `SegmentSizeQuality.compute`}."""
        return {"class_agnostic": self.quality.compute()["All"], "sizes": self.sizes.compute()}


def score_segmentation(
    pipeline: LDMSegPipeline,
    dataset: PanopticDataset,
    *,
    cleaning: Cleaning,
    area_edges: Sequence[int],
    **sampling: Any,
) -> dict[str, Any]:
    """Scores of sampled maps; `sampling` are the arguments of `sample_split`.

    Returns:
        {"class_agnostic", "panoptic", "things", "stuff": PQ, SQ and RQ in [0, 1], "miou", "sizes", "images"}.
    """
    scores, sizes = SegmentationScores(dataset), SizeScores(dataset, area_edges)
    for group in sample_split(pipeline, dataset, **sampling):
        output = group.decode(pipeline, cleaning)
        for index, truth in enumerate(group.truths):
            scores.update(truth, output, index)
            sizes.update(truth, output.instance_ids[index])
    found = scores.compute()
    groups = {name: found["panoptic"][group] for name, group in _GROUPS.items()}
    return {**sizes.compute(), **groups, "miou": found["miou"], "images": len(dataset)}


def score_reconstruction(
    autoencoder: MaskAutoencoder,
    dataset: PanopticDataset,
    *,
    cleaning: Cleaning,
    area_edges: Sequence[int],
    batch_size: int = 16,
) -> dict[str, Any]:
    """Scores of true segmentations after encoding and decoding, at the images' own sizes.

    They bound what a diffusion model on these latents can reach.

    Returns:
        As `SizeScores.compute`.
    """
    scores = SizeScores(dataset, area_edges)
    batches = decoded_batches(autoencoder, dataset, batch_size=batch_size)
    for row, logits in enumerate(itertools.chain.from_iterable(decoded for _, decoded in batches)):
        truth = dataset.ground_truth(row)
        size = (truth.ids.shape[0], truth.ids.shape[1])
        found = instances_from_logits(logits, size=size, threshold=cleaning.threshold, min_area=cleaning.min_area)
        scores.update(truth, found.cpu().numpy())
    return scores.compute()
