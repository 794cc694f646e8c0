"""Judging instances of a split: class-agnostic PQ, PQ of things and stuff, and AP with the model's own confidence."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32
from torch import Tensor

from ...data.panoptic import PanopticDataset
from ...evaluation.instance_ap import InstanceAP
from ...evaluation.panoptic_quality import PanopticQuality
from ...pipeline.ldmseg import LDMSegPipeline, PanopticOutput
from ...pipeline.tiling import place_tiles
from ..segmentation import Cleaning, Sampled, sample_split


def evaluate_instances(
    pipeline: LDMSegPipeline,
    dataset: PanopticDataset,
    *,
    seed: int,
    num_inference_steps: int,
    batch_size: int,
    cleaning: Cleaning,
    sampler: str | None = None,
    tile_size: int | None = None,
    progress: bool = True,
) -> tuple[dict[str, Any], PanopticOutput]:
    """Scores of a split at the images' own sizes, and the predictions in the data set's order.

    AP ranks segments by the mean, over a segment's pixels, of the largest softmax value.

    Args:
        pipeline: with the tasks "instance" and "semantic".
        dataset: its ground truth is unfiltered; segments beyond the model's ids count as missed.
        seed: each image's noise comes from it and the image id.
        num_inference_steps: denoising steps.
        batch_size: images, or tiles, at a time.
        cleaning: threshold, and minimum area in pixels of whole images.
        sampler: instead of the pipeline's own.
        tile_size: side in pixels of the overlapping tiles; None: each image at once.
        progress: show a progress bar.

    Returns:
        Scores in [0, 1]: `class_agnostic` and `panoptic` as `PanopticQuality.compute`, `ap50`, `ap75`, `ap` of all
        segments as one class, and `per_image`: the class-agnostic PQ of each image.
    """
    agnostic = PanopticQuality(dataset.categories, class_agnostic=True)
    panoptic = PanopticQuality(dataset.categories)
    precision = InstanceAP(dataset.categories, class_agnostic=True)
    outputs, per_image = PanopticOutput(), []
    for group in sample_split(
        pipeline,
        dataset,
        seed=seed,
        num_inference_steps=num_inference_steps,
        batch_size=batch_size,
        sampler=sampler,
        tile_size=tile_size,
        progress=progress,
    ):
        output = group.decode(pipeline, cleaning)
        for index, (truth, confidence) in enumerate(zip(group.truths, confidence_maps(pipeline, group), strict=True)):
            ids = output.instance_ids[index]
            found = scored_segments(ids, confidence)
            one = PanopticQuality(dataset.categories, class_agnostic=True)
            one.update(truth.ids, truth.segments, ids, found)
            agnostic.merge(one)
            per_image.append(one.compute()["All"]["pq"])
            precision.update(truth.ids, truth.segments, ids, found)
            panoptic.update(truth.ids, truth.segments, output.ids[index], output.segments[index])
        outputs.extend(output)
    average = precision.compute()
    scores = {
        "class_agnostic": agnostic.compute(),
        "panoptic": panoptic.compute(),
        **{name: average[name] for name in ("ap50", "ap75", "ap")},
        "per_image": per_image,
    }
    return scores, outputs


def scored_segments(ids: np.ndarray, confidence: Float32[np.ndarray, "height width"]) -> list[dict[str, Any]]:
    """The segments of an id map (0 is void) with their mean confidence as `score`."""
    values, places = np.unique(ids, return_inverse=True)
    places = places.ravel()
    means = np.bincount(places, weights=confidence.ravel()) / np.bincount(places)
    return [
        {"id": int(value), "category_id": 1, "score": float(mean)}
        for value, mean in zip(values, means, strict=True)
        if value
    ]


@torch.no_grad()
def confidence_maps(pipeline: LDMSegPipeline, group: Sampled) -> Iterator[Float32[np.ndarray, "height width"]]:
    """The largest softmax value over ids, in [0, 1], at each pixel of each image of `group`."""
    first = 0
    for size in group.sizes:
        grid = None if group.tile_size is None else place_tiles(size, group.tile_size)
        rows = range(first, first := first + (1 if grid is None else len(grid)))
        side = size if grid is None else (grid.tile_size, grid.tile_size)
        maps = [_confidence(pipeline, group.latents["instance"][row : row + 1], side) for row in rows]
        yield maps[0] if grid is None else grid.stitch(maps)


def _confidence(pipeline: LDMSegPipeline, latent: Tensor, size: tuple[int, int]) -> np.ndarray:
    largest = pipeline.autoencoder.from_latents(latent).float().softmax(1).amax(1, keepdim=True)
    return F.interpolate(largest, size=size, mode="bilinear", align_corners=False)[0, 0].cpu().numpy()
