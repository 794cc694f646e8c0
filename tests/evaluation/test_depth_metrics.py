"""Depth metrics: alignment, the invariances it gives, unknown and infinitely far pixels, the constant baseline."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.evaluation.depth_metrics import DepthMetrics, align_scale_and_shift, constant_depth_errors, depth_errors

TARGET = np.random.default_rng(0).uniform(0.1, 2.0, (12, 16)).astype(np.float32)
ROUGH = TARGET + np.random.default_rng(1).normal(0, 0.2, TARGET.shape).astype(np.float32)


@given(st.floats(0.01, 100), st.floats(-50, 50))
@settings(max_examples=40, deadline=None)
def test_scale_and_shift_of_a_prediction_do_not_matter(scale, shift):
    expected = depth_errors(ROUGH.astype(np.float64), TARGET)
    assert depth_errors(ROUGH * np.float64(scale) + shift, TARGET) == pytest.approx(expected, rel=1e-5)


def test_a_prediction_right_up_to_scale_and_shift_has_no_error():
    assert depth_errors(3 * TARGET - 7, TARGET) == pytest.approx({"abs_rel": 0, "delta1": 1}, abs=1e-5)


def test_the_alignment_is_the_least_squares_one():
    design = np.stack([ROUGH.ravel(), np.ones(ROUGH.size)], axis=1).astype(np.float64)
    expected = np.linalg.lstsq(design, TARGET.ravel().astype(np.float64))[0]
    assert align_scale_and_shift(ROUGH.ravel(), TARGET.ravel()) == pytest.approx(expected, rel=1e-6)


def test_a_worked_example():
    # the best constant is 1.5, so depth is 2/3 everywhere; true depths are 1 and 1/2
    errors = constant_depth_errors(np.array([[1.0, 2.0]]))
    assert errors == pytest.approx({"abs_rel": ((1 / 3) / 1 + (1 / 6) / (1 / 2)) / 2, "delta1": 0})


def test_unknown_and_infinitely_far_pixels_do_not_count():
    target, predicted = TARGET.copy(), ROUGH.copy()
    target[0], target[1] = np.nan, 0
    predicted[:2] = 1e6
    assert depth_errors(predicted, target) == pytest.approx(depth_errors(ROUGH[2:], TARGET[2:]))


def test_a_prediction_below_zero_is_clipped_to_the_range():
    target = np.array([[0.1, 1.0, 2.0, 4.0]])
    predicted = np.array([[-5.0, 1.0, 2.0, 4.0]])
    assert np.isfinite(depth_errors(predicted, target)["abs_rel"])
    tight = depth_errors(predicted, target, depth_range=(0.25, 10.0))
    wide = depth_errors(predicted, target, depth_range=(0.25, 1000.0))
    assert tight["abs_rel"] < wide["abs_rel"]


def test_a_model_must_beat_the_constant():
    metric = DepthMetrics()
    metric.update(ROUGH, TARGET)
    result = metric.compute()
    assert result["abs_rel"] < result["constant"]["abs_rel"] / 2
    assert result["delta1"] > result["constant"]["delta1"]


def test_a_constant_prediction_gets_the_constants_errors_at_any_value():
    for value in (0.0, 1.0, 1e8):
        assert depth_errors(np.full_like(TARGET, value), TARGET) == pytest.approx(constant_depth_errors(TARGET))


def test_images_weigh_the_same_and_merge_in_any_order():
    pairs = [(ROUGH, TARGET), (ROUGH[:3], TARGET[:3]), (ROUGH[:, :4], TARGET[:, :4])]
    whole, parts = DepthMetrics(), []
    for pair in pairs:
        whole.update(*pair)
        parts.append(DepthMetrics())
        parts[-1].update(*pair)
    merged = DepthMetrics.from_state_dict(json.loads(json.dumps(parts[2].state_dict())))
    merged.merge(parts[0]).merge(parts[1])
    assert merged.compute() == whole.compute()
    assert whole.compute()["abs_rel"] == pytest.approx(np.mean([depth_errors(*pair)["abs_rel"] for pair in pairs]))


def test_images_without_known_depth_are_skipped_and_counted():
    metric = DepthMetrics()
    metric.update(ROUGH, np.full_like(TARGET, np.nan))
    assert metric.compute() == {
        "abs_rel": None,
        "delta1": None,
        "constant": {"abs_rel": None, "delta1": None},
        "n": 0,
        "skipped": 1,
    }


@pytest.mark.parametrize(
    ("predicted", "target", "words"),
    [
        (ROUGH[:2], TARGET, "shape"),
        (ROUGH, -TARGET, "0 .infinitely far. or above"),
        (np.full_like(TARGET, np.inf), TARGET, "not finite"),
    ],
)
def test_faulty_maps_are_refused(predicted, target, words):
    with pytest.raises(InputError, match=words):
        depth_errors(predicted, target)
    with pytest.raises(InputError, match="depth_range"):
        DepthMetrics((3.0, 1.0))
