"""Evaluation of a pipeline on a validation split: sample once, then decode and score in any number of ways."""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import PartialState
from accelerate.utils import gather_object
from torch import Tensor
from tqdm.auto import tqdm

from ..core.files import read_json, write_json
from ..core.randomness import torch_generator
from ..data.panoptic import GroundTruth, PanopticDataset
from ..evaluation.panoptic_quality import PanopticQuality
from ..evaluation.semantic_iou import SemanticIoU
from ..pipeline.ldmseg import LDMSegPipeline, PanopticOutput
from ..pipeline.tiling import count_tiles, fill_batches


@dataclass(frozen=True)
class Cleaning:
    """How decoded logits become segments: supplement A's threshold and minimum area, or neither."""

    threshold: float
    min_area: int


ARG_MAX = Cleaning(threshold=0.0, min_area=0)


def agnostic_segments(ids: np.ndarray) -> list[dict[str, int]]:
    """The segments of an id map, 0 being void, as class-agnostic PQ reads them."""
    return [{"id": int(i), "category_id": 1} for i in np.unique(ids) if i]


class InstanceScores:
    """Class-agnostic PQ of the instance ids, before classes are voted and before equal stuff is merged."""

    def __init__(self, dataset: PanopticDataset) -> None:
        self.metric = PanopticQuality(dataset.categories, class_agnostic=True)

    def update(self, truth: GroundTruth, output: PanopticOutput, index: int) -> None:
        """Add the `index`-th image of `output`, whose ground truth is `truth`."""
        ids = output.instance_ids[index]
        self.metric.update(truth.ids, truth.segments, ids, agnostic_segments(ids))

    def compute(self) -> dict[str, Any]:
        """{"class_agnostic": as `PanopticQuality.compute`}."""
        return {"class_agnostic": self.metric.compute()}


class PanopticScores:
    """PQ of the merged panoptic map."""

    def __init__(self, dataset: PanopticDataset) -> None:
        self.metric = PanopticQuality(dataset.categories)

    def update(self, truth: GroundTruth, output: PanopticOutput, index: int) -> None:
        """Add the `index`-th image of `output`, whose ground truth is `truth`."""
        self.metric.update(truth.ids, truth.segments, output.ids[index], output.segments[index])

    def compute(self) -> dict[str, Any]:
        """{"panoptic": as `PanopticQuality.compute`}."""
        return {"panoptic": self.metric.compute()}


class SemanticScores:
    """mIoU of the semantic map."""

    def __init__(self, dataset: PanopticDataset) -> None:
        self.metric = SemanticIoU(dataset.num_classes)
        self.class_index = dataset.class_index

    def update(self, truth: GroundTruth, output: PanopticOutput, index: int) -> None:
        """Add the `index`-th image of `output`, whose ground truth is `truth`."""
        predicted = output.semantic[index]
        assert predicted is not None  # the semantic task was asked for
        self.metric.update(semantic_map(truth, self.class_index), predicted)

    def compute(self) -> dict[str, Any]:
        """{"miou", "iou" of each class}."""
        semantic = self.metric.compute()
        return {"miou": semantic["miou"], "iou": semantic["per_class"]}


class SegmentationScores:
    """Class-agnostic PQ, panoptic PQ and mIoU over images, from pipeline outputs and ground truth."""

    def __init__(self, dataset: PanopticDataset) -> None:
        self.parts = (InstanceScores(dataset), PanopticScores(dataset), SemanticScores(dataset))

    def update(self, truth: GroundTruth, output: PanopticOutput, index: int) -> None:
        """Add the `index`-th image of `output`, whose ground truth is `truth`."""
        for part in self.parts:
            part.update(truth, output, index)

    def compute(self) -> dict[str, Any]:
        """{"class_agnostic", "panoptic"} as `PanopticQuality.compute`, {"miou", "iou"} of the semantic map."""
        return {name: value for part in self.parts for name, value in part.compute().items()}

    def merge_processes(self) -> None:
        """Add up the counts of all processes, each of which must call it: the same bits as one process would count."""
        for part in self.parts:
            states = gather_object([part.metric.state_dict()])
            part.metric, *others = map(type(part.metric).from_state_dict, states)  # type: ignore[assignment]
            for other in others:
                part.metric.merge(other)  # type: ignore[arg-type]


def process_share(indices: Sequence[int]) -> Sequence[int]:
    """This process's part of `indices`: every n-th, from its own number on. All of them when it is alone."""
    state = PartialState()
    return indices[state.process_index :: state.num_processes]


def group_scores(found: Mapping[str, Any]) -> dict[str, Any]:
    """`SegmentationScores.compute` without the scores of single classes, most of a result file's size."""
    return {
        "class_agnostic": {"All": found["class_agnostic"]["All"]},
        "panoptic": {name: found["panoptic"][name] for name in ("All", "Things", "Stuff")},
        "miou": found["miou"],
    }


def instance_maps(output: PanopticOutput, count: int | None = None) -> PanopticOutput:
    """The instance ids of the first `count` images of `output` (None: all) as predictions without classes."""
    maps = output.instance_ids[:count]
    segments = []
    for ids in maps:
        found, areas = np.unique(ids[ids > 0], return_counts=True)
        segments.append([{"id": int(i), "category_id": None, "area": int(a)} for i, a in zip(found, areas)])
    nothing = [None] * len(maps)
    return PanopticOutput(maps, segments, maps, list(nothing), list(nothing), output.categories)


def semantic_map(truth: GroundTruth, class_index: Mapping[int, int]) -> np.ndarray:
    """Class indices [H, W] of a ground truth, 0 where it is void."""
    known, places = np.unique(truth.ids, return_inverse=True)
    classes = {segment["id"]: class_index[segment["category_id"]] for segment in truth.segments}
    return np.array([classes.get(int(i), 0) for i in known], dtype=np.int32)[places].reshape(truth.ids.shape)


@dataclass
class Sampled:
    """Clean latents of a group of images, one entry an image or a tile, with what decoding and scoring need."""

    truths: list[GroundTruth]
    latents: dict[str, Tensor]
    sizes: list[tuple[int, int]]
    estimates: list[dict[str, Tensor]] = field(default_factory=list)  # after each step, if asked for
    tile_size: int | None = None
    num_samples: int = 1

    def decode(
        self, pipeline: LDMSegPipeline, cleaning: Cleaning, latents: Mapping[str, Tensor] | None = None
    ) -> PanopticOutput:
        """The maps of these images, from their clean latents or from other ones, such as an entry of `estimates`."""
        return pipeline.decode(
            self.latents if latents is None else latents,
            self.sizes,
            tile_size=self.tile_size,
            num_samples=self.num_samples,
            threshold=cleaning.threshold,
            min_area=cleaning.min_area,
        )


def _append(steps: list[list[dict[str, Tensor]]], step: int, estimates: dict[str, Tensor]) -> None:
    steps[step].append(estimates)


def sample_split(
    pipeline: LDMSegPipeline,
    dataset: PanopticDataset,
    *,
    seed: int,
    num_inference_steps: int,
    batch_size: int,
    tasks: Sequence[str] = ("instance", "semantic"),
    sampler: str | None = None,
    round_estimates: bool | None = None,
    num_samples: int = 1,
    tile_size: int | None = None,
    indices: Sequence[int] | None = None,
    keep_estimates: bool = False,
    progress: bool = True,
) -> Iterator[Sampled]:
    """Sample the images of a split, batch by batch. Each image's noise comes from (seed, image id) alone.

    Args:
        batch_size: samples of images, or of tiles, at a time.
        sampler, round_estimates: instead of the pipeline's own.
        num_samples: of each image; maps are their consensus.
        tile_size: side in pixels of the overlapping tiles that images are cut into; None: each image at once.
        indices: of the images; None: all.
        keep_estimates: keep the estimate of z_0 after each step.
    """
    indices = range(len(dataset)) if indices is None else indices
    truths = (dataset.ground_truth(i) for i in indices)
    groups = fill_batches(truths, lambda truth: count_tiles(truth.ids.shape, tile_size) * num_samples, batch_size)
    with tqdm(total=len(indices), desc=f"{num_inference_steps} steps", unit="image", disable=not progress) as bar:
        for group in groups:
            steps: list[list[dict[str, Tensor]]] = [[] for _ in range(num_inference_steps if keep_estimates else 0)]
            latents = pipeline.sample(
                [truth.image for truth in group],
                generators=[torch_generator(seed, "sample", truth.image_id) for truth in group],
                tile_size=tile_size,
                batch_size=batch_size,
                tasks=tasks,
                num_inference_steps=num_inference_steps,
                sampler=sampler,
                round_estimates=round_estimates,
                num_samples=num_samples,
                on_estimate=functools.partial(_append, steps) if keep_estimates else None,
            )
            estimates = [{task: torch.cat([part[task] for part in parts]) for task in tasks} for parts in steps]
            yield Sampled(group, latents, [truth.ids.shape for truth in group], estimates, tile_size, num_samples)
            bar.update(len(group))


class SavedPredictions:
    """Predictions in COCO's panoptic format on disk, PNGs batch by batch: a whole split would not fit in memory."""

    def __init__(self, json_path: str | Path, png_folder: str | Path) -> None:
        self.json_path, self.png_folder = Path(json_path), Path(png_folder)
        self.annotations: list[dict[str, Any]] = []
        self.categories: list[dict[str, Any]] = []

    def add(self, truths: Sequence[GroundTruth], output: PanopticOutput) -> None:
        """Write the PNGs of a batch."""
        part = self.json_path.with_suffix(".part.json")
        output.save_coco(part, self.png_folder, image_ids=[truth.image_id for truth in truths])
        found = read_json(part)
        part.unlink()
        self.annotations += found["annotations"]
        self.categories = found["categories"]

    def finish(self) -> None:
        """Write the JSON that names all of them."""
        write_json(self.json_path, {"annotations": self.annotations, "categories": self.categories})


def evaluate_segmentation(
    pipeline: LDMSegPipeline,
    dataset: PanopticDataset,
    *,
    cleanings: Mapping[str, Cleaning],
    save_to: Mapping[str, Path] | None = None,
    **sampling: Any,
) -> tuple[dict[str, dict[str, Any]], dict[str, PanopticOutput]]:
    """Scores of every way of cleaning, all from the same samples, and the predictions themselves.

    `sampling` are the arguments of `sample_split`; the minimum area applies to whole images, the threshold to each
    tile.

    Args:
        cleanings: by name.
        save_to: folders by the names of cleanings whose predictions go there batch by batch: predictions.json with
            png/, and the instance ids in instances.json with instances/. Predictions are not kept in memory then, where
            maps of thousands of photographs would take tens of gigabytes. None: they are kept and returned.

    Returns:
        ({name: scores as `SegmentationScores.compute`}, {name: predictions in the data set's order}).
    """
    scores = {name: SegmentationScores(dataset) for name in cleanings}
    outputs = {name: PanopticOutput() for name in cleanings if save_to is None}
    saved = {
        name: (
            SavedPredictions(folder / "predictions.json", folder / "png"),
            SavedPredictions(folder / "instances.json", folder / "instances"),
        )
        for name, folder in (save_to or {}).items()
    }
    for group in sample_split(pipeline, dataset, **sampling):
        for name, cleaning in cleanings.items():
            output = group.decode(pipeline, cleaning)
            for index, truth in enumerate(group.truths):
                scores[name].update(truth, output, index)
            if save_to is None:
                outputs[name].extend(output)
            elif name in save_to:
                saved[name][0].add(group.truths, output)
                saved[name][1].add(group.truths, instance_maps(output))
    for predictions in itertools.chain(*saved.values()):
        predictions.finish()
    return {name: score.compute() for name, score in scores.items()}, outputs
