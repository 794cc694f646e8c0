"""Votes of several samples of one image."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from ldmseg_lib.data.panoptic import GroundTruth
from ldmseg_lib.experiments.few_steps.agreement import AgreementScores
from ldmseg_lib.pipeline.output import PanopticOutput

CATEGORIES = [{"id": 5, "name": "ball", "isthing": 1}, {"id": 6, "name": "floor", "isthing": 0}]
DATASET = SimpleNamespace(categories=CATEGORIES, class_index={5: 1, 6: 2}, num_classes=2)
TRUE = np.array([[1, 1, 2, 2]] * 4)


def outputs(*maps: np.ndarray) -> PanopticOutput:
    return PanopticOutput(
        ids=list(maps),
        segments=[[{"id": int(i), "category_id": 5} for i in np.unique(m) if i] for m in maps],
        instance_ids=list(maps),
        semantic=[np.ones_like(m) for m in maps],
        depth=[None] * len(maps),
        categories=CATEGORIES,
    )


def truth() -> GroundTruth:
    segments = [{"id": 1, "category_id": 5, "iscrowd": 0}, {"id": 2, "category_id": 5, "iscrowd": 0}]
    return GroundTruth(
        image_id=1, file_name="1.jpg", image=np.zeros((4, 4, 3), np.uint8), ids=TRUE, segments=segments, depth=None
    )


def test_a_consensus_beats_samples_whose_errors_differ():
    """Each sample gives another column to the wrong segment; none of these errors has a majority."""
    wide = np.repeat(TRUE, 3, axis=1)
    wrong = [wide.copy() for _ in range(4)]
    for column, sample in zip((0, 4, 7, 11), wrong):
        sample[:, column] = 3 - sample[:, column]
    scores = AgreementScores(DATASET, num_samples=4, min_area=1)
    scores.update(dataclasses.replace(truth(), ids=wide), outputs(*wrong))
    result = scores.compute()
    pq = {name: score["class_agnostic"]["All"]["pq"] for name, score in result["scores"].items()}
    assert pq["consensus"] == 1 and pq["single"] == pytest.approx((5 / 6 + 6 / 7) / 2)
    assert [level["agreeing"] for level in result["levels"]] == [3, 4] and result["auroc"] is None


def test_agreement_that_tells_right_from_wrong():
    """All samples agree where they are right; where the truth's second segment begins they differ."""
    scores = AgreementScores(DATASET, num_samples=3, min_area=1)
    late = np.array([[1, 1, 1, 2]] * 4)
    scores.update(truth(), outputs(late, late, TRUE))
    result = scores.compute()
    assert result["auroc"] == 1
    assert result["levels"] == [{"agreeing": 2, "pixels": 4, "right": 0.0}, {"agreeing": 3, "pixels": 12, "right": 1.0}]


def test_pixels_without_a_true_segment_do_not_count():
    scores = AgreementScores(DATASET, num_samples=1, min_area=1)
    nothing = dataclasses.replace(truth(), ids=np.zeros_like(TRUE), segments=[])
    scores.update(nothing, outputs(np.ones((4, 4), int)))
    assert scores.compute()["levels"] == []
