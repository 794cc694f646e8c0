"""Semantic IoU: a worked example, agreement with counting by sets, merging, and what void means."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.evaluation.semantic_iou import SemanticIoU

MAPS = arrays.arrays(np.uint8, (2, 5, 4), elements=st.integers(0, 3))


def evaluated(*pairs, num_classes=3):
    metric = SemanticIoU(num_classes)
    for target, predicted in pairs:
        metric.update(target, predicted)
    return metric


def test_a_worked_example():
    target = np.array([[1, 1, 1, 1], [2, 2, 0, 0]])
    predicted = np.array([[1, 1, 1, 0], [2, 3, 3, 1]])
    result = evaluated((target, predicted)).compute()
    # class 1: 3 of 4, the 1 on void is no error; class 2: 1 of 2; class 3 is in no target
    assert result == {
        "miou": pytest.approx((3 / 4 + 1 / 2) / 2),
        "n": 2,
        "pixel_accuracy": pytest.approx(4 / 6),
        "per_class": {1: 3 / 4, 2: 1 / 2, 3: None},
    }


@given(MAPS)
@settings(max_examples=60, deadline=None)
def test_agrees_with_sets_of_pixels(maps):
    target, predicted = maps
    per_class = evaluated((target, predicted)).compute()["per_class"]
    for index in (1, 2, 3):
        is_target, is_predicted = target == index, (predicted == index) & (target != 0)
        expected = (is_target & is_predicted).sum() / (is_target | is_predicted).sum() if is_target.any() else None
        assert per_class[index] == (expected if expected is None else pytest.approx(expected))


@given(MAPS, MAPS)
@settings(max_examples=30, deadline=None)
def test_merging_equals_one_pass(first, second):
    parts = [evaluated(tuple(maps)) for maps in (second, first)]
    parts = [SemanticIoU.from_state_dict(json.loads(json.dumps(part.state_dict()))) for part in parts]
    assert parts[0].merge(parts[1]).compute() == evaluated(tuple(first), tuple(second)).compute()


def test_a_perfect_reconstruction_of_few_ids_scores_one():
    """The autoencoder's mIoU: ids that never occur, and the void channel, do not pull a perfect score down."""
    ids = np.array([[0, 17, 17], [200, 200, 0]])
    assert evaluated((ids, ids), num_classes=255).compute()["miou"] == 1


def test_without_any_known_pixel_there_is_no_mean():
    result = evaluated((np.zeros((2, 2), int), np.ones((2, 2), int))).compute()
    assert result["miou"] is None and result["pixel_accuracy"] is None and result["n"] == 0


@pytest.mark.parametrize(
    ("target", "predicted", "words"),
    [
        (np.zeros((2, 2), int), np.zeros((2, 3), int), r"\(2, 2\)"),
        (np.zeros((2, 2), int), np.full((2, 2), 4), "prediction has class indices from 4 to 4"),
        (np.full((2, 2), -1), np.zeros((2, 2), int), "target has class indices from -1"),
        (np.zeros((2, 2)), np.zeros((2, 2), int), "float64"),
    ],
)
def test_faulty_maps_are_refused_and_add_nothing(target, predicted, words):
    metric = SemanticIoU(3)
    with pytest.raises(InputError, match=words):
        metric.update(target, predicted)
    assert metric.confusion.sum() == 0
