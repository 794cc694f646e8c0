"""Scores that tell small segments from large ones: of a pipeline's predictions and of an autoencoder's reconstruction.

Small objects in the background are what the projection to latents loses (supplement C).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ...data.panoptic import GroundTruth, PanopticDataset, collate
from ...evaluation.panoptic_quality import PanopticQuality
from ...evaluation.segment_size import SegmentSizeQuality
from ...models.autoencoder import MaskAutoencoder
from ...pipeline.ldmseg import LDMSegPipeline
from ...pipeline.output import PanopticOutput
from ...pipeline.postprocess import instances_from_logits
from ..segmentation import Cleaning, SegmentationScores, sample_split


class SizeScores:
    """Class-agnostic PQ of all segments, and by their area at the image's own size."""

    def __init__(self, dataset: PanopticDataset, area_edges: Sequence[int]) -> None:
        self.quality = PanopticQuality(dataset.categories, class_agnostic=True)
        self.sizes = SegmentSizeQuality(area_edges)

    def update(self, truth: GroundTruth, ids: np.ndarray) -> None:
        """Add one image, `ids` being its predicted instance ids, 0 void."""
        found = [{"id": int(i), "category_id": 1} for i in np.unique(ids) if i]
        self.sizes.add(self.quality.update(truth.ids, truth.segments, ids, found))

    def compute(self) -> dict[str, Any]:
        """{"class_agnostic": PQ, SQ and RQ in [0, 1], "sizes": as `SegmentSizeQuality.compute`}."""
        return {"class_agnostic": self.quality.compute()["All"], "sizes": self.sizes.compute()}


@torch.no_grad()
def score_segmentation(
    pipeline: LDMSegPipeline,
    dataset: PanopticDataset,
    *,
    seed: int,
    sampler: str,
    num_inference_steps: int,
    batch_size: int,
    cleaning: Cleaning,
    area_edges: Sequence[int],
) -> dict[str, Any]:
    """Scores of sampled maps, as `sample_split` makes them.

    Returns:
        {"class_agnostic", "panoptic", "things", "stuff": PQ, SQ and RQ in [0, 1], "miou", "sizes", "images"}.
    """
    scores, sizes = SegmentationScores(dataset), SizeScores(dataset, area_edges)
    for group in sample_split(
        pipeline,
        dataset,
        seed=seed,
        sampler=sampler,
        num_inference_steps=num_inference_steps,
        batch_size=batch_size,
    ):
        output: PanopticOutput = group.decode(pipeline, cleaning)
        for index, truth in enumerate(group.truths):
            scores.update(truth, output, index)
            sizes.update(truth, output.instance_ids[index])
    found = scores.compute()
    panoptic = found["panoptic"]
    return {
        **sizes.compute(),
        "panoptic": panoptic["All"],
        "things": panoptic["Things"],
        "stuff": panoptic["Stuff"],
        "miou": found["miou"],
        "images": len(dataset),
    }


@torch.no_grad()
def score_reconstruction(
    autoencoder: MaskAutoencoder,
    dataset: PanopticDataset,
    *,
    cleaning: Cleaning,
    area_edges: Sequence[int],
    batch_size: int = 16,
) -> dict[str, Any]:
    """What is left of true segmentations after encoding and decoding, judged at the images' own size.

    It is the most that a diffusion model on these latents can reach.

    Returns:
        As `SizeScores.compute`.
    """
    scores = SizeScores(dataset, area_edges)
    for start in tqdm(range(0, len(dataset), batch_size), desc="reconstruction", unit="batch"):
        rows = range(start, min(start + batch_size, len(dataset)))
        ids = collate([dataset[i] for i in rows])["ids"].to(autoencoder.device)
        decoded = autoencoder.decode(autoencoder.encode(ids).mean)
        for row, logits in zip(rows, decoded, strict=True):
            truth = dataset.ground_truth(row)
            size = (truth.ids.shape[0], truth.ids.shape[1])
            found = instances_from_logits(logits, size=size, threshold=cleaning.threshold, min_area=cleaning.min_area)
            scores.update(truth, found.cpu().numpy())
    return scores.compute()
