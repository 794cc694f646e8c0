"""PQ against hand-made cases, a plain second implementation, its defining properties, and COCO's recorded results."""

import itertools
import json
import random
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torchmetrics.detection import PanopticQuality as TorchmetricsPanopticQuality

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.data.pixels import read_ids
from ldmseg_lib.evaluation.panoptic_quality import PanopticQuality

CATEGORIES = [
    {"id": 7, "name": "cat", "isthing": 1},
    {"id": 3, "name": "dog", "isthing": 1},
    {"id": 90, "name": "grass", "isthing": 0},
]
CATEGORY_IDS = [7, 3, 90]


def segment(segment_id, category_id, iscrowd=0):
    return {"id": segment_id, "category_id": category_id, "iscrowd": iscrowd}


def row(*runs):
    """A map of one row: (id, length) after (id, length)."""
    return np.concatenate([np.full(length, segment_id) for segment_id, length in runs])[None]


def evaluated(*images, **rules):
    metric = PanopticQuality(CATEGORIES, **rules)
    for image in images:
        metric.update(*image)
    return metric


def totals(metric):
    """Counts over all categories: tp, fp, fn, iou_sum."""
    return tuple(sum(c[key] for c in metric.counts().values()) for key in ("tp", "fp", "fn", "iou_sum"))


def test_a_worked_example():
    target = row((1, 10), (2, 10), (3, 20))
    predicted = row((5, 8), (6, 12), (7, 20))
    metric = evaluated(
        (
            target,
            [segment(1, 7), segment(2, 7), segment(3, 90)],
            predicted,
            [segment(5, 7), segment(6, 7), segment(7, 3)],
        )
    )
    # cats: IoU 8/10 and 10/12, both found; grass is called dog: one missed, one wrong
    assert metric.counts() == {
        7: {"tp": 2, "fp": 0, "fn": 0, "iou_sum": pytest.approx(0.8 + 10 / 12)},
        3: {"tp": 0, "fp": 1, "fn": 0, "iou_sum": 0},
        90: {"tp": 0, "fp": 0, "fn": 1, "iou_sum": 0},
    }
    result = metric.compute()
    assert result["per_class"][7]["pq"] == pytest.approx((0.8 + 10 / 12) / 2)
    assert result["All"] == {
        "pq": pytest.approx((0.8 + 10 / 12) / 6),
        "sq": pytest.approx((0.8 + 10 / 12) / 6),
        "rq": pytest.approx(1 / 3),
        "n": 3,
    }
    assert result["Things"]["n"] == 2 and result["Stuff"] == {"pq": 0, "sq": 0, "rq": 0, "n": 1}


def test_iou_of_exactly_one_half_is_no_match():
    half = evaluated((row((1, 10), (0, 5)), [segment(1, 7)], row((9, 5), (0, 10)), [segment(9, 7)]))
    assert totals(half) == (0, 1, 1, 0)
    more = evaluated((row((1, 11), (0, 5)), [segment(1, 7)], row((9, 6), (0, 10)), [segment(9, 7)]))
    assert totals(more) == (1, 0, 0, pytest.approx(6 / 11))


def test_predicted_pixels_on_void_leave_the_union():
    metric = evaluated((row((1, 10), (0, 90)), [segment(1, 7)], row((9, 100)), [segment(9, 7)]))
    assert totals(metric) == (1, 0, 0, 1)


def test_a_prediction_mostly_on_void_is_forgiven_but_half_is_not_mostly():
    void, grass = [(0, 10)], segment(1, 90)
    forgiven = evaluated((row(*void, (1, 9)), [grass], row((9, 19)), [segment(9, 7)]))
    assert forgiven.counts()[7]["fp"] == 0
    half = evaluated((row(*void, (1, 10)), [grass], row((9, 20)), [segment(9, 7)]))
    assert half.counts()[7]["fp"] == 1


def test_crowd_is_neither_matched_nor_missed_and_forgives_its_own_class():
    target, crowd = row((1, 20), (2, 9)), [segment(1, 7, iscrowd=1), segment(2, 90)]
    same_class = evaluated((target, crowd, row((9, 20), (8, 9)), [segment(9, 7), segment(8, 90)]))
    assert totals(same_class) == (1, 0, 0, 1)
    other_class = evaluated((target, crowd, row((9, 20), (8, 9)), [segment(9, 3), segment(8, 90)]))
    assert other_class.counts()[3]["fp"] == 1


@pytest.mark.parametrize(("crowd", "false_positives"), [("official", 1), ("corrected", 0)])
def test_of_two_crowd_regions_the_official_rule_remembers_the_last(crowd, false_positives):
    target = row((1, 10), (2, 10))
    image = (
        target,
        [segment(1, 7, iscrowd=1), segment(2, 7, iscrowd=1)],
        row((9, 10), (8, 10)),
        [segment(9, 7), segment(8, 7)],
    )
    assert totals(evaluated(image, crowd=crowd)) == (0, false_positives, 0, 0)


@pytest.mark.parametrize(("crowd", "false_positives"), [("official", 1), ("corrected", 0)])
def test_class_agnostic_crowd_regions_of_two_categories_share_one_memory(crowd, false_positives):
    image = (
        row((1, 10), (2, 10)),
        [segment(1, 7, iscrowd=1), segment(2, 3, iscrowd=1)],
        row((9, 10), (8, 10)),
        [{"id": 9}, {"id": 8}],
    )
    assert totals(evaluated(image, class_agnostic=True, crowd=crowd)) == (0, false_positives, 0, 0)


def test_class_agnostic_reads_no_category():
    target = row((1, 10), (2, 10))
    metric = evaluated(
        (target, [segment(1, 7), segment(2, 90)], target, [{"id": 1}, {"id": 2, "category_id": 12345}]),
        class_agnostic=True,
    )
    assert metric.compute()["All"] == {"pq": 1, "sq": 1, "rq": 1, "n": 1}


def test_an_empty_group_is_none_and_counts_no_class():
    metric = evaluated((row((1, 4)), [segment(1, 7)], row((1, 4)), [segment(1, 7)]))
    result = metric.compute()
    assert result["Stuff"] == {"pq": None, "sq": None, "rq": None, "n": 0}
    assert result["per_class"][90]["pq"] is None
    assert result["All"] == {"pq": 1, "sq": 1, "rq": 1, "n": 1}
    assert PanopticQuality(CATEGORIES).compute()["All"]["pq"] is None


def test_ids_up_to_the_largest_that_a_png_holds():
    largest = 2**24 - 1
    target = row((largest, 30), (256, 2), (0, 3))
    metric = evaluated((target, [segment(largest, 7), segment(256, 3)], target, [segment(largest, 7), segment(256, 3)]))
    assert totals(metric) == (2, 0, 0, 2)


GOOD = (row((1, 10), (2, 10)), [segment(1, 7), segment(2, 3)], row((8, 10), (0, 10)), [segment(8, 7)])


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (2, np.zeros((3, 3), int), "3x3 .* 20x1"),
        (2, row((8, 9), (5, 11)), "predicted segment 5 is on the map .11 pixels. but not listed"),
        (1, [segment(1, 7)], "target segment 2 is on the map"),
        (3, [segment(8, 7), segment(4, 7)], "predicted segment 4 is listed but has no pixel"),
        (1, [*GOOD[1], segment(77, 7)], "target segment 77 is listed but has no pixel"),
        (3, [segment(8, 7), segment(8, 7)], "predicted segment 8 is listed twice"),
        (3, [segment(8, 55)], "predicted segment 8 has category_id 55"),
        (3, [{"id": 8}], "predicted segment 8 has category_id None"),
        (3, [{"id": 8, "category_id": [7]}], "category_id"),
        (3, [{"id": "8", "category_id": 7}], "'8'"),
        (3, [segment(0, 7)], "predicted segment 0 is out of range"),
        (2, row((-1, 20)), "from -1"),
        (2, row((2**24, 20)), "to 16777216"),
        (2, row((8, 20)).astype(float), "float64"),
    ],
)
def test_a_faulty_image_is_named_and_adds_nothing(place, value, words):
    metric = evaluated(GOOD)
    before = metric.state_dict()
    image = list(GOOD)
    image[place] = value
    with pytest.raises(InputError, match=words):
        metric.update(*image)
    assert metric.state_dict() == before
    metric.update(*GOOD)
    assert totals(metric) == (2, 0, 2, 2)


def test_counts_of_different_evaluations_do_not_merge():
    with pytest.raises(InputError, match="class_agnostic"):
        PanopticQuality(CATEGORIES).merge(PanopticQuality(CATEGORIES, crowd="corrected"))
    with pytest.raises(InputError, match="PanopticQuality"):
        PanopticQuality.from_state_dict({"categories": CATEGORIES})


@st.composite
def images(draw, crowds=True):
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    sides = []
    for may_be_crowd in (crowds, False):
        ids = draw(arrays.arrays(np.int64, shape, elements=st.sampled_from([0, 1, 2, 300, 70000])))
        listed = []
        for segment_id in draw(st.permutations([i for i in np.unique(ids).tolist() if i])):
            is_crowd = may_be_crowd and draw(st.booleans())
            listed.append(segment(segment_id, draw(st.sampled_from(CATEGORY_IDS)), int(is_crowd)))
        sides += [ids, listed]
    return tuple(sides)


def plainly_counted(image, class_agnostic, crowd):
    """Totals by the rules as published, over sets of pixels."""
    target_ids, targets, predicted_ids, predictions = image

    def pixels(ids, segment_id):
        return set(np.flatnonzero(ids == segment_id).tolist())

    def kind(s):
        return 0 if class_agnostic else s["category_id"]

    void = pixels(target_ids, 0)
    tp, iou_sum, matched_targets, matched_predictions = 0, 0.0, set(), set()
    for t, p in itertools.product(targets, predictions):
        if t["iscrowd"] or kind(t) != kind(p):
            continue
        a, b = pixels(target_ids, t["id"]), pixels(predicted_ids, p["id"])
        iou = len(a & b) / len((a | b) - (b & void))
        if iou > 0.5:
            tp, iou_sum = tp + 1, iou_sum + iou
            matched_targets.add(t["id"])
            matched_predictions.add(p["id"])
    fn = sum(not t["iscrowd"] and t["id"] not in matched_targets for t in targets)
    fp = 0
    for p in predictions:
        if p["id"] in matched_predictions:
            continue
        own = pixels(predicted_ids, p["id"])
        regions = [pixels(target_ids, t["id"]) for t in targets if t["iscrowd"] and kind(t) == kind(p)]
        for region in regions[-1:] if crowd == "official" else regions:
            own_ignored = own & region
            void = void | own_ignored
        fp += len(own & void) / len(own) <= 0.5
        void = pixels(target_ids, 0)
    return tp, fp, fn, pytest.approx(iou_sum, abs=1e-9)


@given(images(), st.booleans(), st.sampled_from(["official", "corrected"]))
@settings(max_examples=150, deadline=None)
def test_agrees_with_a_plain_count_over_sets_of_pixels(image, class_agnostic, crowd):
    metric = evaluated(image, class_agnostic=class_agnostic, crowd=crowd)
    assert totals(metric) == plainly_counted(image, class_agnostic, crowd)


@given(images(crowds=False), st.booleans())
@settings(max_examples=50, deadline=None)
def test_a_perfect_prediction_scores_one(image, class_agnostic):
    target_ids, targets, _, _ = image
    result = evaluated((target_ids, targets, target_ids, targets), class_agnostic=class_agnostic).compute()
    for group in ("All", "Things", "Stuff"):
        assert {result[group][key] for key in ("pq", "sq", "rq")} == ({1.0} if result[group]["n"] else {None})


@given(images(), st.permutations([0, 11, 2**24 - 1, 5, 65536]))
@settings(max_examples=50, deadline=None)
def test_relabelling_changes_nothing(image, new_ids):
    new_of = dict(zip([1, 2, 300, 70000], [i for i in new_ids if i], strict=True)) | {0: 0}

    def relabelled(ids, listed):
        return np.vectorize(new_of.get)(ids), [{**s, "id": new_of[s["id"]]} for s in listed]

    renamed = (*relabelled(*image[:2]), *relabelled(*image[2:]))
    assert evaluated(image).state_dict() == evaluated(renamed).state_dict()


@given(st.lists(images(), min_size=1, max_size=6), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_any_split_merged_in_any_order_gives_the_same_bits(some_images, rng: random.Random):
    whole = evaluated(*some_images)
    shuffled = rng.sample(some_images, len(some_images))
    cut = rng.randint(0, len(shuffled))
    parts = [evaluated(*shuffled[:cut]), evaluated(*shuffled[cut:])]
    rng.shuffle(parts)
    # as processes exchange them
    parts = [PanopticQuality.from_state_dict(json.loads(json.dumps(part.state_dict()))) for part in parts]
    merged = parts[0].merge(parts[1])
    assert merged.state_dict() == whole.state_dict()
    assert merged.compute() == whole.compute()


@given(st.lists(images(), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_pq_is_sq_times_rq(some_images):
    for entry in evaluated(*some_images).compute()["per_class"].values():
        if entry["pq"] is not None:
            assert entry["pq"] == pytest.approx(entry["sq"] * entry["rq"])


@given(st.lists(images(crowds=False), min_size=1, max_size=3))
@settings(max_examples=25, deadline=None)
def test_agrees_with_torchmetrics_where_that_follows_cocos_rules(some_images):
    """It has no crowd, merges stuff of one class in an image, and leaves predicted void out of the union too: so no
    crowd here, things alone, and the last predicted segment covers what none does."""
    things = [{**category, "isthing": 1} for category in CATEGORIES]
    ours = PanopticQuality(things)
    theirs = TorchmetricsPanopticQuality(set(CATEGORY_IDS), set(), allow_unknown_preds_category=True)
    for target_ids, targets, predicted_ids, predictions in some_images:
        predictions = predictions or [segment(1, 7)]
        filled = np.where(predicted_ids == 0, predictions[-1]["id"], predicted_ids)
        ours.update(target_ids, targets, filled, predictions)
        classes = [
            np.vectorize({s["id"]: s["category_id"] for s in listed}.get)(ids, 0)
            for ids, listed in ((filled, predictions), (target_ids, targets))
        ]
        theirs.update(
            torch.from_numpy(np.stack([classes[0], filled], axis=-1))[None],
            torch.from_numpy(np.stack([classes[1], target_ids], axis=-1))[None],
        )
    expected = float(theirs.compute())
    assert ours.compute()["All"]["pq"] == (None if np.isnan(expected) else pytest.approx(expected, abs=1e-6))


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_counts_equal_the_recorded_ones_of_cocos_evaluator(shared_oracle, class_agnostic):
    folder = shared_oracle / "panoptic_quality"
    cases = json.loads((folder / "cases.json").read_text())
    suffix = "_class_agnostic" if class_agnostic else ""
    whole = PanopticQuality(cases["categories"], class_agnostic)

    def assert_counts(metric, expected):
        for category_id, counts in metric.counts().items():
            recorded = expected[str(category_id)]
            assert (counts["tp"], counts["fp"], counts["fn"]) == (recorded["tp"], recorded["fp"], recorded["fn"])
            assert counts["iou_sum"] == pytest.approx(recorded["iou"], abs=1e-9)

    for target, prediction, expected in zip(
        cases["target"], cases["prediction"], cases[f"expected_each{suffix}"], strict=True
    ):
        ids = [
            read_ids(folder / name / case["file_name"], None, np.array([s["id"] for s in case["segments_info"]], int))
            for name, case in (("target", target), ("prediction", prediction))
        ]
        one = PanopticQuality(cases["categories"], class_agnostic)
        one.update(ids[0], target["segments_info"], ids[1], prediction["segments_info"])
        assert_counts(one, expected)
        whole.merge(one)
    expected = cases[f"expected{suffix}"]
    assert_counts(whole, expected["counts"])
    result = whole.compute()
    for group in ("All", "Things", "Stuff"):
        if group in expected:
            assert result[group] == pytest.approx(expected[group], abs=1e-12)


@pytest.mark.parametrize("category", [True, 1.0])
def test_a_category_that_only_equals_a_number_is_unknown(category):
    """As keys of a dict, true and 1.0 are 1; in a JSON file they are faults."""
    ids = np.ones((2, 2), int)
    quality = PanopticQuality([{"id": 1, "name": "ball", "isthing": 1}])
    with pytest.raises(InputError, match="category"):
        quality.update(ids, [{"id": 1, "category_id": 1}], ids, [{"id": 1, "category_id": category}])


def test_memory_does_not_grow_with_pairs_of_segments():
    ids = np.arange(1, 4097).reshape(64, 64)
    segments = [segment(i, 7) for i in range(1, 4097)]
    tracemalloc.start()
    metric = evaluated((ids, segments, ids[::-1].copy(), segments), (ids, segments, ids, segments))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # a table of 4,096 x 4,096 counts is 128 MiB
    assert peak < 16 * 2**20
    assert totals(metric)[:3] == (8192, 0, 0)
