"""Panoptic quality of predictions on disk, image by image, on one core or several."""

import itertools
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..core.errors import InputError
from ..data.layout import file_in
from ..data.pixels import ID_LIMIT, read_ids
from .coco_files import ImagePair, PanopticFile, Unlabelled
from .matching import Crowd, SegmentMatches
from .panoptic_quality import PanopticQuality
from .segment_size import SegmentSizeQuality

_IMAGES_A_TASK = 16


@dataclass(frozen=True)
class Rules:
    """How images are evaluated; sent once to each worker."""

    truth_folder: Path
    predictions_folder: Path
    categories: Sequence[Mapping[str, Any]]
    class_agnostic: bool
    crowd: Crowd
    background_category: int | None
    """Category of the target's unlabelled pixels where they are one stuff segment; None where they are void."""
    fill_predictions: bool
    """Whether unlabelled pixels of predictions are such a segment too."""


@dataclass(frozen=True)
class Evaluation:
    """Counts over the images before the first fault; over all, where `fault` is empty."""

    quality: PanopticQuality
    by_size: SegmentSizeQuality
    images_total: int
    fault: str = ""


def make_rules(
    truth: PanopticFile,
    predictions: PanopticFile,
    *,
    class_agnostic: bool = False,
    crowd: Crowd = "official",
    unlabelled: Unlabelled | None = None,
) -> Rules:
    """The rules of an evaluation; `unlabelled` None means what the ground truth says.

    Where 0 is background, the ground truth's pixels 0 are one stuff segment of the extra category "background", whose
    id is the largest id plus one. Predictions may list their background as any other segment, and their pixels 0 are
    void then; where no prediction does, their pixels 0 are background too.
    """
    categories = list(truth.categories)
    background, fill_predictions = None, False
    if (unlabelled or truth.unlabelled) == "background":
        background = max((c["id"] for c in categories), default=0) + 1
        categories.append({"id": background, "name": "background", "isthing": 0})
        fill_predictions = not _lists_category(predictions, background)
    return Rules(
        truth_folder=truth.folder,
        predictions_folder=predictions.folder,
        categories=categories,
        class_agnostic=class_agnostic,
        crowd=crowd,
        background_category=background,
        fill_predictions=fill_predictions,
    )


def _lists_category(predictions: PanopticFile, category: int) -> bool:
    lists = (entry.get("segments_info") for entries in predictions.entries.values() for entry in entries)
    segments = (segment for listed in lists if isinstance(listed, list) for segment in listed)
    return any(isinstance(segment, dict) and segment.get("category_id") == category for segment in segments)


def evaluate(pairs: Sequence[ImagePair], rules: Rules, *, workers: int = 1) -> Evaluation:
    """Evaluate pairs in their order up to the first fault, which is returned, not raised.

    Args:
        workers: processes; with 1 everything runs in this one. The result does not depend on it.
    """
    quality, by_size = _empty(rules)
    tasks = [pairs[start : start + _IMAGES_A_TASK] for start in range(0, len(pairs), _IMAGES_A_TASK)]
    fault = ""
    # a progress bar only where somebody can watch it, so that the error stays one line elsewhere
    with tqdm(total=len(pairs), unit="image", desc="Panoptic quality", disable=None, leave=False) as progress:
        results = _results(tasks, rules, workers)
        try:
            for task_quality, task_sizes, fault in results:
                quality.merge(task_quality)
                by_size.merge(task_sizes)
                progress.update(task_quality.images)
                if fault:
                    break
        except BrokenProcessPool:
            fault = f"a worker process died after {quality.images:,} images (out of memory?); give fewer --workers"
        except KeyboardInterrupt:
            fault = f"interrupted after {quality.images:,} images"
        finally:
            results.close()
    return Evaluation(quality, by_size, len(pairs), fault)


_Result = tuple[PanopticQuality, SegmentSizeQuality, str]


def _results(tasks: Sequence[Sequence[ImagePair]], rules: Rules, workers: int) -> Generator[_Result, None, None]:
    """Results of the tasks, in their order."""
    if workers <= 1:
        yield from map(_evaluate_some, itertools.repeat(rules), tasks)
        return
    # fresh processes: forking one with OpenCV's threads in it may hang
    with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=get_context("spawn")) as pool:
        try:
            yield from pool.map(_evaluate_some, itertools.repeat(rules), tasks)
        finally:
            pool.shutdown(cancel_futures=True)


def _empty(rules: Rules) -> tuple[PanopticQuality, SegmentSizeQuality]:
    return PanopticQuality(rules.categories, rules.class_agnostic, rules.crowd), SegmentSizeQuality()


def _evaluate_some(rules: Rules, pairs: Sequence[ImagePair]) -> _Result:
    quality, by_size = _empty(rules)
    fault = ""
    for pair in pairs:
        try:
            by_size.add(_evaluate_one(quality, rules, pair))
        except InputError as error:
            fault = str(error)
            break
    return quality, by_size, fault


def _evaluate_one(quality: PanopticQuality, rules: Rules, pair: ImagePair) -> SegmentMatches:
    if pair.fault:
        raise InputError(pair.fault)
    target_segments = pair.target["segments_info"]
    predicted_segments = pair.prediction["segments_info"]
    target_path = file_in(rules.truth_folder, pair.target["file_name"])
    predicted_path = file_in(rules.predictions_folder, pair.prediction["file_name"])
    target_ids = read_ids(target_path, pair.size, _ids(target_segments))
    predicted_ids = read_ids(predicted_path, None, _ids(predicted_segments))
    if rules.background_category is not None:
        target_ids, target_segments = _with_background(target_ids, target_segments, rules.background_category)
        if rules.fill_predictions:
            predicted_ids, predicted_segments = _with_background(
                predicted_ids, predicted_segments, rules.background_category
            )
    try:
        return quality.update(target_ids, target_segments, predicted_ids, predicted_segments)
    except InputError as error:
        raise InputError(f"{target_path} and {predicted_path}, image id {pair.image_id}: {error}") from None


def _ids(segments: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The ids that a PNG can hold; the matching names the others."""
    ids = (segment.get("id") for segment in segments)
    return np.array([i for i in ids if isinstance(i, int) and 0 < i < ID_LIMIT], np.int64)


def _with_background(ids: np.ndarray, segments: Sequence[Mapping[str, Any]], category: int) -> tuple[np.ndarray, list]:
    if ids.all():
        return ids, list(segments)
    taken = {segment.get("id") for segment in segments}
    free = next(i for i in range(ID_LIMIT - 1, 0, -1) if i not in taken)
    return np.where(ids == 0, free, ids), [*segments, {"id": free, "category_id": category, "iscrowd": 0}]
