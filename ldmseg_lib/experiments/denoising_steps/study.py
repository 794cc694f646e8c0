"""Quality against the number of denoising steps and the sampler (Table S2), and samples at some of them (Figure S5)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm.auto import tqdm

from ...data.panoptic import PanopticDataset
from ...pipeline.ldmseg import LDMSegPipeline
from ...pipeline.output import PanopticOutput
from ..segmentation import ARG_MAX, Cleaning, Sampled, SegmentationScores, group_scores, instance_maps, sample_split
from .timing import Precision, autocast
from .trajectory import TrajectoryStatistics


@dataclass(frozen=True)
class Sampling:
    """How a split is sampled: noise from (seed, image id), so that every step count starts from the same noise."""

    seed: int
    batch_size: int
    precision: Precision = "fp32"
    tile_size: int | None = None


@dataclass(frozen=True)
class Run:
    """One number of denoising steps of one sampler, and over how many of the first images its scores are computed."""

    sampler: str
    steps: int
    num_images: tuple[int, ...]


def plan_runs(*tables: tuple[Mapping[str, Sequence[int]], int]) -> list[Run]:
    """Every sampling once, also where several tables or figures share it.

    Args:
        tables: each the numbers of steps by sampler, and on how many of the first images they are evaluated.
    """
    wanted: dict[tuple[str, int], set[int]] = {}
    for counts_of, num_images in tables:
        for sampler, counts in counts_of.items():
            for steps in counts:
                wanted.setdefault((sampler, steps), set()).add(num_images)
    return [Run(sampler, steps, tuple(sorted(images))) for (sampler, steps), images in wanted.items()]


@torch.no_grad()
def evaluate_runs(
    pipeline: LDMSegPipeline,
    dataset: PanopticDataset,
    runs: Iterable[Run],
    *,
    sampling: Sampling,
    cleaning: Cleaning,
    shown: Mapping[tuple[str, int], int] | None = None,
    followed: tuple[str, int] | None = None,
) -> tuple[list[dict[str, Any]], dict[tuple[str, int], PanopticOutput], dict[str, Any] | None]:
    """Sample and score every run.

    Args:
        runs: from `plan_runs`.
        sampling: the same for all.
        cleaning: of the scored maps.
        shown: (sampler, steps) of runs whose first images are returned, and of how many images: the instance ids by the
            arg max alone.
        followed: (sampler, steps) of the run whose estimates after every step are compared with the truth, over the
            smallest of its numbers of images.

    Returns:
        (rows, outputs, trajectory): of each run and number of images {"sampler", "steps", "images", "class_agnostic",
        "panoptic", "miou"} (as `SegmentationScores.compute`), by (sampler, steps) what was to be shown, and
        `TrajectoryStatistics.compute` of the followed run.
    """
    rows: list[dict[str, Any]] = []
    shown = shown or {}
    outputs = {key: PanopticOutput() for key in shown}
    trajectory = None
    runs = list(runs)
    for run in tqdm(runs, desc="step counts", unit="count"):
        key = (run.sampler, run.steps)
        numbers = sorted({min(number, len(dataset)) for number in run.num_images})
        scores = {number: SegmentationScores(dataset) for number in numbers}
        statistics = TrajectoryStatistics(run.steps) if key == followed else None
        groups = sample_split(
            pipeline,
            dataset,
            seed=sampling.seed,
            num_inference_steps=run.steps,
            batch_size=sampling.batch_size,
            sampler=run.sampler,
            # Table S2 is of the plain samplers
            round_estimates=False,
            tile_size=sampling.tile_size,
            indices=range(numbers[-1]),
            keep_estimates=statistics is not None,
            progress=False,
        )
        place = 0
        for group in _sampled(groups, pipeline.device, sampling.precision):
            output = group.decode(pipeline, cleaning)
            for index, truth in enumerate(group.truths):
                for number, score in scores.items():
                    if place + index < number:
                        score.update(truth, output, index)
            if key in outputs and place < shown[key]:
                raw = group.decode(pipeline, ARG_MAX)
                outputs[key].extend(instance_maps(raw, shown[key] - place))
            if statistics is not None and place < numbers[0]:
                _follow(statistics, pipeline, group, numbers[0] - place)
            place += len(group.truths)
        for number, score in scores.items():
            rows.append({"sampler": run.sampler, "steps": run.steps, "images": number, **group_scores(score.compute())})
        trajectory = statistics.compute() if statistics is not None else trajectory
    return rows, outputs, trajectory


def _sampled(groups: Iterator[Sampled], device: torch.device, precision: Precision) -> Iterator[Sampled]:
    """`groups`, sampled in `precision`; what the consumer does with them is not affected."""
    while True:
        with autocast(device, precision):
            group = next(groups, None)
        if group is None:
            return
        yield group


def _follow(statistics: TrajectoryStatistics, pipeline: LDMSegPipeline, group: Sampled, count: int) -> None:
    """Add the first `count` images of a group, their estimates after each step decoded by the arg max alone."""
    maps = [
        group.decode(pipeline, ARG_MAX, {"instance": estimate["instance"]}).instance_ids for estimate in group.estimates
    ]
    for truth, *steps in zip(group.truths[:count], *maps):
        statistics.update(truth.ids, truth.segments, steps)
