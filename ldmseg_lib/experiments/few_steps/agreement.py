"""Several samples of one image: where they agree, what most of them say, and whether agreement tells right from wrong.

A generative model answers one image in many ways. Segments of two samples are matched by IoU (ids mean nothing), and
each sample votes at each pixel for the segment of a reference: the sample that the others agree with most.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from tqdm.auto import tqdm

from ...core.randomness import torch_generator
from ...data.panoptic import GroundTruth, PanopticDataset
from ...pipeline.consensus import Agreement, sample_agreement, voted
from ...pipeline.ldmseg import LDMSegPipeline
from ...pipeline.output import PanopticOutput
from ...pipeline.segment_colors import matched_ids
from ..segmentation import SegmentationScores, group_scores

IdMap = Int[np.ndarray, "height width"]


class AgreementScores:
    """Over images: PQ of single samples, of the reference, and of the consensus; and how often pixels are right.

    A pixel is right if its segment is the one matched to its true segment; pixels without one do not count.
    """

    def __init__(self, dataset: PanopticDataset, *, num_samples: int, min_area: int) -> None:
        self.num_samples, self.min_area = num_samples, min_area
        self.scores = {name: SegmentationScores(dataset) for name in ("single", "reference", "consensus")}
        # pixels by how many samples agreed: [wrong, right] for 0..num_samples
        self.pixels = np.zeros((num_samples + 1, 2), np.int64)
        self.images: list[dict[str, float]] = []

    def update(self, truth: GroundTruth, outputs: PanopticOutput) -> Agreement:
        """Add an image and the panoptic outputs of its samples."""
        found = sample_agreement(outputs.instance_ids)
        for index in range(self.num_samples):
            self.scores["single"].update(truth, outputs, index)
        self.scores["reference"].update(truth, outputs, found.reference)
        samples = [outputs.entry(index) for index in range(self.num_samples)]
        self.scores["consensus"].update(truth, voted(samples, found, min_area=self.min_area), 0)
        wrong = self._wrong(truth, found.consensus)
        known = np.isin(truth.ids, [s["id"] for s in truth.segments if not s.get("iscrowd", 0)])
        agreed = np.rint(found.share * self.num_samples).astype(int)
        for right, chosen in ((0, known & wrong), (1, known & ~wrong)):
            self.pixels[:, right] += np.bincount(agreed[chosen], minlength=self.num_samples + 1)
        if known.any():
            self.images.append({"agreement": float(found.share[known].mean()), "wrong": float(wrong[known].mean())})
        return found

    @staticmethod
    def _wrong(truth: GroundTruth, ids: IdMap) -> np.ndarray:
        return matched_ids(ids, truth.ids) != truth.ids

    def compute(self) -> dict[str, Any]:
        """{"scores", "levels", "auroc", "correlation", "images"}.

        "scores": of "single" (all samples), "reference" and "consensus", as `SegmentationScores.compute` without single
        classes; "levels": for each number of agreeing samples its pixels and the share of them that is right; "auroc":
        the probability that a wrong pixel has less agreement than a right one, ties counted half (None where one kind
        is missing); "correlation": Spearman's, between an image's mean agreement and its share of wrong pixels.
        """
        levels = [
            {"agreeing": number, "pixels": int(row.sum()), "right": float(row[1] / row.sum())}
            for number, row in enumerate(self.pixels)
            if row.sum()
        ]
        return {
            "scores": {name: group_scores(score.compute()) for name, score in self.scores.items()},
            "levels": levels,
            "auroc": _auroc(self.pixels),
            "correlation": _spearman(self.images),
            "images": len(self.images),
        }


def _auroc(pixels: Int[np.ndarray, "levels 2"]) -> float | None:
    wrong, right = pixels[:, 0].astype(float), pixels[:, 1].astype(float)
    if not wrong.sum() or not right.sum():
        return None
    below = wrong.cumsum() - wrong
    return float((right * (below + wrong / 2)).sum() / (wrong.sum() * right.sum()))


def _spearman(images: Sequence[Mapping[str, float]]) -> float | None:
    from scipy.stats import spearmanr

    agreement, wrong = ([image[name] for image in images] for name in ("agreement", "wrong"))
    if len(set(agreement)) < 2 or len(set(wrong)) < 2:
        return None
    return float(spearmanr(agreement, wrong).statistic)


def evaluate_agreement(
    pipeline: LDMSegPipeline,
    dataset: PanopticDataset,
    *,
    seed: int,
    num_samples: int,
    num_images: int,
    num_inference_steps: int,
    shown: int = 0,
) -> tuple[dict[str, Any], list[tuple[GroundTruth, PanopticOutput, Agreement]]]:
    """Sample each of the first `num_images` images `num_samples` times, its samples in one batch, and let them vote.

    Args:
        seed: of the noise, together with the image's id and the sample's number.
        shown: of how many images samples and votes are returned.

    Returns:
        (`AgreementScores.compute`, (truth, samples, agreement) of the first images).
    """
    scores = AgreementScores(dataset, num_samples=num_samples, min_area=pipeline.config.min_area)
    examples = []
    for index in tqdm(range(min(num_images, len(dataset))), desc=f"{num_samples} samples an image", unit="image"):
        truth = dataset.ground_truth(index)
        features = pipeline.encode_image(truth.image).take([0] * num_samples)
        generators = [torch_generator(seed, "agreement", truth.image_id, number) for number in range(num_samples)]
        latents = pipeline.predict(features, num_inference_steps=num_inference_steps, generators=generators)
        outputs = pipeline.decode(latents, features.sizes)
        found = scores.update(truth, outputs)
        if index < shown:
            examples.append((truth, outputs, found))
    return scores.compute(), examples
