"""Judging the baseline exactly as the pipeline is judged, and timing any model that segments images."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from ...core.errors import InputError
from ...data.panoptic import GroundTruth, PanopticDataset
from ...models.mask2former import ViTMask2Former
from ...pipeline.images import Picture
from ...pipeline.output import PanopticOutput
from ...pipeline.query_segmentation import segment_images
from ..segmentation import SegmentationScores


def evaluate_mask2former(
    model: ViTMask2Former,
    dataset: PanopticDataset,
    *,
    batch_size: int,
    progress: bool = True,
    on_output: Callable[[Sequence[GroundTruth], PanopticOutput], None] | None = None,
) -> tuple[dict[str, Any], PanopticOutput]:
    """Scores on all images of `dataset`, and the predictions in its order.

    Args:
        on_output: called with the ground truths of a batch and their predictions, which are not kept then.

    Returns:
        (scores as `SegmentationScores.compute`, predictions).
    """
    scores, predictions = SegmentationScores(dataset), PanopticOutput()
    with tqdm(total=len(dataset), desc="segmenting", unit="image", disable=not progress) as bar:
        for start in range(0, len(dataset), batch_size):
            truths = [dataset.ground_truth(index) for index in range(start, min(start + batch_size, len(dataset)))]
            output = segment_images(model, [truth.image for truth in truths], batch_size=batch_size)
            for index, truth in enumerate(truths):
                scores.update(truth, output, index)
            if on_output is None:
                predictions.extend(output)
            else:
                on_output(truths, output)
            bar.update(len(truths))
    return scores.compute(), predictions


def seconds_per_image(
    segment: Callable[[list[Picture]], Any],
    images: Sequence[Picture],
    *,
    device: torch.device | str,
    repeats: int = 5,
    warmups: int = 1,
) -> float:
    """Median seconds that `segment` takes for one image, given one at a time and waited for.

    Args:
        segment: from a list of one image to anything.
        images: each is timed `repeats` times.
        device: where `segment` works.
        warmups: rounds over the images that are not measured.

    Raises:
        InputError: no image, or no repetition.
    """
    if not images or repeats < 1:
        raise InputError("timing needs at least one image and one repetition")
    device, measured = torch.device(device), []
    for number in range(warmups + repeats):
        for image in images:
            start = time.perf_counter()
            segment([image])
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number >= warmups:
                measured.append(time.perf_counter() - start)
    return statistics.median(measured)
