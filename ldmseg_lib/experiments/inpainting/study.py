"""Mask inpainting measured: class-agnostic PQ when blocks of a true segmentation are dropped and filled in again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from tqdm.auto import tqdm

from ...core.randomness import numpy_generator, torch_generator
from ...data.panoptic import GroundTruth, PanopticDataset
from ...evaluation.panoptic_quality import PanopticQuality
from ...pipeline.inpainting import completed, denoise
from ...pipeline.ldmseg import LDMSegPipeline
from ...pipeline.output import PanopticOutput
from ...pipeline.prompts import cells_of_pixels, nearest_label, read_prompt

METHODS = ("inpainting", "nearest known label", "no mask given")

IdMap = Int[np.ndarray, "height width"]
Region = Bool[np.ndarray, "height width"]


@dataclass(frozen=True)
class Drop:
    """What is hidden: this share (`rate`) of an image's blocks of `block` x `block` latent cells."""

    block: int
    rate: float


def dropped_cells(cells: int, drop: Drop, generator: np.random.Generator) -> Bool[np.ndarray, "cells cells"]:
    """The latent cells that are dropped: whole blocks, drawn without replacement.

    Their number is rounded up or down at random, so that its mean over images is the rate even where an image has few
    blocks. Equal generators drop more and more of the same blocks as the rate rises.
    """
    rows = -(-cells // drop.block)
    count = int(drop.rate * rows**2 + generator.random())
    chosen = generator.permutation(rows**2).reshape(rows, rows) < count
    return np.kron(chosen, np.ones((drop.block, drop.block), bool))[:cells, :cells]


def hidden_pixels(truth: GroundTruth, drop: Drop, *, cells: int, seed: int) -> Region:
    """The pixels of an image whose centres lie in dropped cells of its `cells` x `cells`; from seed and image alone."""
    dropped = dropped_cells(cells, drop, numpy_generator(seed, "drop", truth.image_id, drop.block))
    rows, columns = (cells_of_pixels(length, cells) for length in truth.ids.shape)
    return dropped[rows[:, None], columns]


class RegionScores:
    """Class-agnostic PQ of whole images, and of their hidden pixels alone (everything else is void on both sides)."""

    def __init__(self, dataset: PanopticDataset) -> None:
        self.whole = PanopticQuality(dataset.categories, class_agnostic=True)
        self.hidden = PanopticQuality(dataset.categories, class_agnostic=True)

    def update(self, truth: GroundTruth, ids: IdMap, hidden: Region) -> None:
        """Add one image."""
        for quality, region in ((self.whole, np.ones_like(hidden)), (self.hidden, hidden)):
            target, found = np.where(region, truth.ids, 0), np.where(region, ids, 0)
            present = {int(i) for i in np.unique(target)}
            segments = [segment for segment in truth.segments if segment["id"] in present]
            quality.update(target, segments, found, [{"id": int(i), "category_id": 1} for i in np.unique(found) if i])

    def compute(self) -> dict[str, dict[str, float | None]]:
        """{"whole", "hidden"}: each PQ, SQ and RQ in [0, 1]."""
        qualities = {"whole": self.whole, "hidden": self.hidden}
        return {name: {k: q.compute()["All"][k] for k in ("pq", "sq", "rq")} for name, q in qualities.items()}


def evaluate_inpainting(
    pipeline: LDMSegPipeline,
    dataset: PanopticDataset,
    *,
    seed: int,
    drops: Sequence[Drop],
    num_inference_steps: int,
    sampler: str | None,
    resamplings: int,
    batch_size: int,
    threshold: float,
    min_area: int,
) -> list[dict[str, Any]]:
    """Drop parts of each image's true segmentation and score what comes back, by the model and by two baselines.

    The baselines: each hidden pixel takes the nearest known label, without a model; and the model segments the image
    without any mask given, from the same noise. No hidden pixel's label reaches any of the three.

    Args:
        dataset: the images, judged at their own sizes. Known segments beyond the model's number of ids are dropped too,
            the smallest first.
        seed: of drops and noise, which depend on the image besides, and not on batches or on other drops.
        drops: what is hidden; every image sees each.
        threshold, min_area: how the model's predictions are cleaned (supplement A); `min_area` in pixels of the image's
            own size, not asked of known segments.

    Returns:
        For each of `drops`: {"block": side in latent cells, "pixels": side in pixels of the model's square, "rate",
        "dropped": the share of pixels that were hidden, "scores": {method: as `RegionScores.compute`}}.
    """
    cells = pipeline.config.image_size // pipeline.autoencoder.factor
    scores = {drop: {method: RegionScores(dataset) for method in METHODS} for drop in drops}
    shares: dict[Drop, list[float]] = {drop: [] for drop in drops}
    sampling: dict[str, Any] = {"num_inference_steps": num_inference_steps, "sampler": sampler}
    with tqdm(total=len(dataset) * (len(drops) + 1), desc="inpainting", unit="sample") as bar:
        for start in range(0, len(dataset), batch_size):
            truths = [dataset.ground_truth(i) for i in range(start, min(start + batch_size, len(dataset)))]
            features = pipeline.encode_image([truth.image for truth in truths])
            latents = pipeline.predict(features, tasks=("instance",), generators=_noise(seed, truths), **sampling)
            free = pipeline.decode(latents, features.sizes, threshold=threshold, min_area=min_area).instance_ids
            bar.update(len(truths))
            jobs = [(place, drop) for place in range(len(truths)) for drop in drops]
            for first in range(0, len(jobs), batch_size):
                batch = jobs[first : first + batch_size]
                places = [place for place, _ in batch]
                masks = [hidden_pixels(truths[place], drop, cells=cells, seed=seed) for place, drop in batch]
                prompts = [
                    read_prompt(
                        largest_segments(truths[place].ids, pipeline.num_ids - 1),
                        ~hidden,
                        num_ids=pipeline.num_ids,
                        generator=torch_generator(seed, "inpainting ids", truths[place].image_id),
                    )
                    for place, hidden in zip(places, masks)
                ]
                chosen = features.take(places)
                latents = denoise(
                    pipeline,
                    chosen,
                    prompts,
                    tasks=("instance",),
                    generators=_noise(seed, [truths[place] for place in places]),
                    resamplings=resamplings,
                    **sampling,
                )
                found = pipeline.decode(latents, chosen.sizes, threshold=threshold, min_area=0).instance_ids
                for (place, drop), hidden, prompt, ids in zip(batch, masks, prompts, found):
                    truth, score = truths[place], scores[drop]
                    score["inpainting"].update(truth, completed(prompt, ids, min_area=min_area), hidden)
                    score["nearest known label"].update(truth, nearest_label(truth.ids, ~hidden), hidden)
                    score["no mask given"].update(truth, free[place], hidden)
                    shares[drop].append(float(hidden.mean()))
                bar.update(len(batch))
    return [
        {
            "block": drop.block,
            "pixels": drop.block * pipeline.autoencoder.factor,
            "rate": drop.rate,
            "dropped": float(np.mean(shares[drop])),
            "scores": {method: score.compute() for method, score in scores[drop].items()},
        }
        for drop in drops
    ]


def inpainting_examples(
    pipeline: LDMSegPipeline,
    dataset: PanopticDataset,
    *,
    seed: int,
    drops: Sequence[Drop],
    num_candidates: int,
    num_inference_steps: int,
    sampler: str | None,
    resamplings: int,
) -> dict[str, PanopticOutput]:
    """Before and after for the first images, one for each of `drops`.

    Returns:
        {"given": what was left, "candidate 1": ..., "nearest known label": ...}, each with one entry an image.
    """
    cells = pipeline.config.image_size // pipeline.autoencoder.factor
    names = ["given", *(f"candidate {k + 1}" for k in range(num_candidates)), "nearest known label"]
    outputs = {name: PanopticOutput(categories=dataset.categories) for name in names}
    for index, drop in enumerate(drops[: len(dataset)]):
        truth = dataset.ground_truth(index)
        known = ~hidden_pixels(truth, drop, cells=cells, seed=seed)
        given = np.where(known, largest_segments(truth.ids, pipeline.num_ids - 1), 0)
        answers = pipeline.inpaint(
            pipeline.encode_image(truth.image),
            given,
            known,
            num_inference_steps=num_inference_steps,
            num_candidates=num_candidates,
            sampler=sampler,
            resamplings=resamplings,
            generator=torch_generator(seed, "inpainting examples", truth.image_id),
        )
        for name, ids in zip(names, [given, *answers.ids, nearest_label(given, known)], strict=True):
            found, areas = np.unique(ids[ids != 0], return_counts=True)
            outputs[name].ids.append(ids)
            outputs[name].segments.append(
                [{"id": int(i), "category_id": None, "area": int(area)} for i, area in zip(found, areas)]
            )
    return outputs


def largest_segments(ids: IdMap, limit: int) -> IdMap:
    """`ids` with only its `limit` largest segments; the others become void."""
    found, place, areas = np.unique(ids, return_inverse=True, return_counts=True)
    areas[found == 0] = 0
    kept = np.zeros_like(found)
    chosen = np.argsort(-areas, kind="stable")[:limit]
    kept[chosen] = found[chosen]
    return kept[place].reshape(ids.shape)


def _noise(seed: int, truths: Sequence[GroundTruth]) -> list:
    """The same noise for an image whatever is known of it, so that drops are compared on equal terms."""
    return [torch_generator(seed, "sample", truth.image_id) for truth in truths]
