"""Judging a pipeline task by task: every task has a score, and adding a task means adding one.

add_task(Task("foreground", target, "mask"), score=lambda dataset: LabelScores(dataset, "foreground", labels=2))
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int

from ...data.panoptic import GroundTruth, PanopticDataset
from ...diffusion.tasks import TASKS, Task
from ...evaluation.depth_metrics import DepthMetrics
from ...evaluation.semantic_iou import SemanticIoU
from ...pipeline.ldmseg import LDMSegPipeline
from ...pipeline.output import PanopticOutput
from ..segmentation import Cleaning, InstanceScores, PanopticScores, SemanticScores, sample_split, semantic_map


@runtime_checkable
class Scores(Protocol):
    """Metrics over images, from pipeline outputs and ground truth at the images' own sizes."""

    def update(self, truth: GroundTruth, output: PanopticOutput, index: int) -> None:
        """Add the `index`-th image of `output`, whose ground truth is `truth`."""

    def compute(self) -> dict[str, Any]:
        """The metrics as plain values."""


class DepthScores:
    """AbsRel and delta1 after alignment of scale and shift, on finite known depth (see `evaluation.depth_metrics`)."""

    def __init__(self, dataset: PanopticDataset) -> None:
        self.metrics = DepthMetrics()

    def update(self, truth: GroundTruth, output: PanopticOutput, index: int) -> None:
        """Add the `index`-th image of `output`, whose ground truth is `truth`."""
        predicted = output.depth[index]
        assert predicted is not None and truth.depth is not None  # asked for, of a data set opened with depth
        self.metrics.update(predicted, truth.depth)

    def compute(self) -> dict[str, Any]:
        """As `DepthMetrics.compute`, the constant prediction's errors included."""
        return self.metrics.compute()


class LabelScores:
    """mIoU of an added task whose map holds labels, against the task's own target of the ground truth.

    Args:
        dataset: says which classes there are.
        task: name of the task; its map is `PanopticOutput.maps[task]`.
        labels: labels 1..labels; 0 in the target is unknown and does not count.
    """

    def __init__(self, dataset: PanopticDataset, task: str, *, labels: int) -> None:
        self.task, self.class_index = task, dataset.class_index
        self.overlap = SemanticIoU(labels)

    def update(self, truth: GroundTruth, output: PanopticOutput, index: int) -> None:
        """Add the `index`-th image of `output`, whose ground truth is `truth`."""
        found = output.maps[self.task][index]
        # a decoder of ids has more channels than the task has labels
        found = np.where(found <= self.overlap.num_classes, found, 0)
        self.overlap.update(true_labels(self.task, truth, self.class_index), found)

    def compute(self) -> dict[str, Any]:
        """{"miou", "iou" of each label}."""
        found = self.overlap.compute()
        return {"miou": found["miou"], "iou": found["per_class"]}


SCORES: dict[str, Callable[[PanopticDataset], Scores]] = {
    "instance": InstanceScores,
    "semantic": SemanticScores,
    "depth": DepthScores,
}


def add_task(task: Task, *, score: Callable[[PanopticDataset], Scores]) -> None:
    """Make a task known by its name: to profiles, training and pipelines, and with its score to the evaluation.

    One of the same name is replaced.
    """
    TASKS[task.name] = task
    SCORES[task.name] = score


def true_labels(task: str, truth: GroundTruth, class_index: Mapping[int, int]) -> Int[np.ndarray, "height width"]:
    """The target of a label task for a whole ground truth, at the image's own size: 0 is unknown."""
    batch = {
        "ids": torch.from_numpy(truth.ids.astype(np.int64))[None],
        "semantic": torch.from_numpy(semantic_map(truth, class_index).astype(np.int64))[None],
        "depth": None if truth.depth is None else torch.from_numpy(truth.depth)[None],
        "segments": [truth.segments],
    }
    return TASKS[task].target(batch)[0].numpy()


def evaluate_tasks(
    pipeline: LDMSegPipeline,
    dataset: PanopticDataset,
    tasks: Sequence[str],
    *,
    seed: int,
    num_inference_steps: int,
    batch_size: int,
    cleaning: Cleaning,
    sampler: str | None = None,
    examples: int = 0,
) -> tuple[dict[str, dict[str, Any]], PanopticOutput]:
    """Scores of each task, all sampled in one batch an image, and of the panoptic map where there is one.

    The noise of a task is the same whatever other tasks are sampled with it.

    Args:
        pipeline: knows `tasks`.
        dataset: opened with depth if depth is judged.
        tasks: names.
        seed: of the noise, with the image's id.
        num_inference_steps: denoising steps.
        batch_size: images at a time.
        cleaning: of the instance map.
        sampler: instead of the pipeline's own.
        examples: keep the maps of the first so many images.

    Returns:
        ({task: scores}, maps of the first images). "panoptic" is among the scores of a model that is asked for both the
        instance and the semantic map.
    """
    scores = {task: SCORES[task](dataset) for task in tasks}
    if {"instance", "semantic"} <= set(tasks):
        scores["panoptic"] = PanopticScores(dataset)
    kept = PanopticOutput()
    for group in sample_split(
        pipeline,
        dataset,
        seed=seed,
        num_inference_steps=num_inference_steps,
        batch_size=batch_size,
        tasks=tasks,
        sampler=sampler,
    ):
        output = group.decode(pipeline, cleaning)
        for index, truth in enumerate(group.truths):
            for score in scores.values():
                score.update(truth, output, index)
        if len(kept) < examples:
            kept.extend(output)
    return {name: score.compute() for name, score in scores.items()}, kept
