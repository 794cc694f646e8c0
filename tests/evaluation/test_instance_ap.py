"""AP of instances through COCO's evaluator."""

import numpy as np
import pytest

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.evaluation.instance_ap import InstanceAP

CATEGORIES = [
    {"id": 1, "name": "cat", "isthing": 1},
    {"id": 2, "name": "dog", "isthing": 1},
    {"id": 5, "name": "grass", "isthing": 0},
]
# four squares of 10 x 10 in a row
IDS = np.repeat(np.arange(1, 5), 10)[None].repeat(10, 0)
CATS = [{"id": i, "category_id": 1} for i in (1, 2, 3)] + [{"id": 4, "category_id": 5}]


def evaluated(predicted, segments, target=IDS, targets=CATS, **options):
    metric = InstanceAP(CATEGORIES, **options)
    metric.update(target, targets, predicted, segments)
    return metric


def test_a_perfect_prediction_scores_one_and_stuff_is_left_out():
    result = evaluated(IDS, CATS).compute()
    assert result == {"ap50": 1, "ap75": 1, "ap": 1, "n": 1, "per_class": {1: 1, 2: None}}


def test_ap50_by_hand():
    """Ranked right, wrong, right of three targets: precision 1 up to a recall of 1/3, then 2/3 up to 2/3, then 0."""
    predicted = IDS.copy()
    predicted[:, 20:30] = 0
    predicted[:4, 20:30] = 7  # 40 % of the third square
    segments = [
        {"id": 1, "category_id": 1, "score": 0.9},
        {"id": 7, "category_id": 1, "score": 0.8},
        {"id": 2, "category_id": 1, "score": 0.7},
        {"id": 4, "category_id": 5},
    ]
    points = np.linspace(0, 1, 101)
    expected = np.where(points <= 1 / 3, 1, np.where(points <= 2 / 3, 2 / 3, 0)).mean()
    assert evaluated(predicted, segments).compute()["ap50"] == pytest.approx(expected, abs=1e-6)


def test_scores_rank_the_predictions():
    predicted = IDS.copy()
    predicted[:4, 20:30] = 7
    segments = [{"id": i, "category_id": 1, "score": 0.5} for i in (1, 2, 3)] + [{"id": 4, "category_id": 5}]
    right_first = evaluated(predicted, [*segments, {"id": 7, "category_id": 1, "score": 0.1}]).compute()["ap50"]
    wrong_first = evaluated(predicted, [*segments, {"id": 7, "category_id": 1, "score": 0.9}]).compute()["ap50"]
    assert right_first == 1 and wrong_first < 0.8


def test_class_agnostic_forgets_categories_and_takes_stuff_in():
    swapped = [{"id": i, "category_id": 2} for i in (1, 2, 3, 4)]
    assert evaluated(IDS, swapped).compute()["ap50"] == 0
    assert evaluated(IDS, swapped, class_agnostic=True).compute()["ap50"] == 1


def test_more_instances_than_cocos_hundred_all_count():
    ids = np.arange(1, 226).reshape(15, 15).repeat(4, 0).repeat(4, 1)
    listed = [{"id": i, "category_id": 1} for i in range(1, 226)]
    assert evaluated(ids, listed, ids, listed).compute()["ap50"] == 1
    assert evaluated(ids, listed, ids, listed, max_detections=100).compute()["ap50"] == pytest.approx(
        100 / 225, abs=0.01
    )


def test_merging_equals_one_pass():
    segments = [{"id": i, "category_id": 1} for i in (1, 2)]
    partly = np.where(IDS < 3, IDS, 0)
    whole = evaluated(IDS, CATS)
    whole.update(IDS, CATS, partly, segments)
    assert evaluated(IDS, CATS).merge(evaluated(partly, segments)).compute() == whole.compute()


def test_no_target_no_value_and_no_noise(capsys):
    nothing = np.zeros((4, 4), int)
    assert evaluated(nothing, [], nothing, []).compute()["ap50"] is None
    assert InstanceAP(CATEGORIES).compute()["ap"] is None
    assert capsys.readouterr().out == ""


def test_faults_are_named():
    with pytest.raises(InputError, match="segment 4 is on the map"):
        evaluated(IDS, CATS[:3])
    with pytest.raises(InputError, match="score nan"):
        evaluated(IDS, [{**s, "score": float("nan")} for s in CATS])
