"""PQ by segment size."""

import json

import numpy as np
import pytest

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.evaluation.panoptic_quality import PanopticQuality
from ldmseg_lib.evaluation.segment_size import SegmentSizeQuality

CATEGORIES = [{"id": 1, "name": "thing", "isthing": 1}, {"id": 2, "name": "other", "isthing": 1}]


def evaluated(target, predicted, edges=(0, 10, 50)):
    """Maps of one row given as lengths; category 1 everywhere."""
    maps = [np.repeat(np.arange(1, len(lengths) + 1), lengths)[None] for lengths in (target, predicted)]
    listed = [[{"id": i, "category_id": 1} for i in np.unique(ids).tolist()] for ids in maps]
    metric = SegmentSizeQuality(edges)
    metric.add(PanopticQuality(CATEGORIES).update(maps[0], listed[0], maps[1], listed[1]))
    return metric


def test_a_large_prediction_over_small_targets_misses_the_small_and_errs_among_the_large():
    small, middle, large = evaluated(target=[5, 5, 5, 5, 20, 60], predicted=[20, 20, 60]).compute()
    assert (small["tp"], small["fp"], small["fn"], small["recall"]) == (0, 0, 4, 0)
    assert (middle["tp"], middle["fp"], middle["fn"], middle["recall"]) == (1, 1, 0, 1)
    assert (large["pq"], large["sq"], large["rq"], large["recall"]) == (1, 1, 1, 1)
    assert (small["max_area"], middle["min_area"], large["max_area"]) == (9, 10, None)


def test_a_range_without_segments_is_none():
    small, middle, _ = evaluated([20], [20]).compute()
    assert small["pq"] is None and small["recall"] is None
    assert middle["pq"] == 1


def test_all_ranges_together_are_the_whole():
    metric = evaluated([5, 30, 9, 70, 12], [6, 28, 10, 80, 2])
    whole = evaluated([5, 30, 9, 70, 12], [6, 28, 10, 80, 2], edges=(0,)).compute()[0]
    for key in ("tp", "fp", "fn", "iou_sum"):
        assert sum(entry[key] for entry in metric.compute()) == pytest.approx(whole[key])


def test_merging_equals_one_pass_through_json():
    parts = [evaluated([5, 30], [6, 29]), evaluated([70, 3], [73])]
    other = SegmentSizeQuality.from_state_dict(json.loads(json.dumps(parts[1].state_dict())))
    merged = parts[0].merge(other).compute()
    assert [entry["tp"] + entry["fn"] for entry in merged] == [2, 1, 1]


def test_other_ranges_do_not_merge_and_must_increase():
    with pytest.raises(InputError, match="edges"):
        SegmentSizeQuality((0, 5)).merge(SegmentSizeQuality((0, 6)))
    with pytest.raises(InputError, match="increasing"):
        SegmentSizeQuality((0, 5, 5))
