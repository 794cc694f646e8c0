"""Trajectories: shares of small made-up maps counted by hand, and nothing that ids themselves could change."""

import numpy as np
import pytest

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.experiments.denoising_steps.trajectory import TrajectoryStatistics

# true segments of 6, 4, 6 and 4 pixels, two void pixels, and a crowd of two
TRUTH = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 2, 2, 0], [3, 3, 3, 4, 4, 9], [3, 3, 3, 4, 4, 9]])
SEGMENTS = [{"id": i} for i in (1, 2, 3, 4)] + [{"id": 9, "iscrowd": 1}]
BLIND = np.full_like(TRUTH, 7)


def followed(*maps: np.ndarray, truth: np.ndarray = TRUTH, segments: list[dict] = SEGMENTS) -> list[dict]:
    statistics = TrajectoryStatistics(len(maps))
    statistics.update(truth, segments, maps)
    return statistics.compute()["steps"]


def grouped(*pairs: tuple[int, int]) -> np.ndarray:
    """The truth with the second id of each pair in place of the first."""
    ids = TRUTH.copy()
    for old, new in pairs:
        ids[old == TRUTH] = new
    return ids


def test_a_perfect_sample_has_no_fault_whatever_its_ids() -> None:
    for ids in (TRUTH, (TRUTH * 7) % 31):
        (only,) = followed(ids)
        assert only["wrong"] == only["grouped"] == only["spoiled"] == 0
        assert only["lasting"] is None and only["changed"] is None and only["kept"] is None


def test_of_segments_that_cover_true_ones_those_that_cover_two_are_counted() -> None:
    assert followed(grouped((2, 1)))[0]["grouped"] == pytest.approx(1 / 3)
    assert followed(grouped((2, 1), (4, 3)))[0]["grouped"] == 1
    assert followed(BLIND)[0]["grouped"] == 1
    assert followed(np.zeros_like(TRUTH))[0]["grouped"] is None


def test_half_of_a_segment_is_not_covered() -> None:
    """Two pixels of segment 2 join segment 1: no segment covers two. A third pixel more, and one does."""
    ids = TRUTH.copy()
    ids[0, 3:5] = 1
    assert followed(ids)[0]["grouped"] == 0
    ids[1, 3] = 1
    assert followed(ids)[0]["grouped"] == pytest.approx(1 / 3)


def test_a_predicted_segment_is_right_for_one_true_segment_alone() -> None:
    assert followed(grouped((2, 1)))[0]["wrong"] == pytest.approx(4 / 20)
    assert followed(BLIND)[0]["wrong"] == pytest.approx(14 / 20)
    assert followed(np.zeros_like(TRUTH))[0]["wrong"] == 1


def test_errors_that_persist_and_right_pixels_that_are_spoiled() -> None:
    """Step 1: segments 2 and 4 wrong (8 pixels). Step 2: 2 and 3 (10 pixels). Step 3: 2 (4 pixels)."""
    first, second, last = grouped((2, 1), (4, 3)), grouped((2, 1), (3, 0)), grouped((2, 1))
    one, two, three = followed(first, second, last)
    assert [row["wrong"] for row in (one, two, three)] == pytest.approx([8 / 20, 10 / 20, 4 / 20])
    assert (one["kept"], two["kept"], three["kept"]) == (None, 0.5, 0.4)
    assert (one["lasting"], two["lasting"], three["lasting"]) == (0.5, 0.4, 1.0)
    assert one["spoiled"] == two["spoiled"] == three["spoiled"] == 0
    assert followed(TRUTH, grouped((2, 1)))[0]["spoiled"] == pytest.approx(4 / 20)


def test_changed_pixels_are_counted_over_the_whole_map() -> None:
    other = TRUTH.copy()
    other[0, 5] = 5  # in the void column
    assert [row["changed"] for row in followed(TRUTH, other, other)] == [None, pytest.approx(1 / 24), 0]


def test_void_and_crowd_do_not_count_as_wrong() -> None:
    ids = TRUTH.copy()
    ids[:, 5] = 3
    assert followed(ids)[0]["wrong"] == 0


def test_small_and_large_segments_are_found_apart() -> None:
    truth = np.repeat([[1, 2, 2, 2, 3, 3, 3, 3, 3]], 2, axis=0)
    segments = [{"id": i} for i in (1, 2, 3)]
    ids = truth.copy()
    ids[truth == 1] = 2
    statistics = TrajectoryStatistics(2)
    statistics.update(truth, segments, [ids, truth])
    result = statistics.compute()
    assert (result["segments"], result["small_area"], result["images"]) == (3, 6, 1)
    assert [(row["found_small"], row["found_large"]) for row in result["steps"]] == [(0, 1), (1, 1)]


def test_images_add_up() -> None:
    statistics = TrajectoryStatistics(1)
    statistics.update(TRUTH, SEGMENTS, [TRUTH])
    statistics.update(TRUTH, SEGMENTS, [BLIND])
    assert statistics.compute()["steps"][0]["wrong"] == pytest.approx(14 / 40)


def test_an_empty_trajectory_and_images_without_segments_are_no_division_by_zero() -> None:
    empty = TrajectoryStatistics(2)
    assert empty.compute()["small_area"] is None
    empty.update(np.zeros((2, 2), int), [], [np.zeros((2, 2), int)] * 2)
    result = empty.compute()
    assert result["segments"] == 0 and result["steps"][1]["changed"] == 0 and result["steps"][0]["wrong"] is None


def test_maps_that_do_not_fit_are_refused() -> None:
    statistics = TrajectoryStatistics(2)
    for maps in ([TRUTH], [TRUTH, TRUTH[:2]]):
        with pytest.raises(InputError, match="give 2 maps"):
            statistics.update(TRUTH, SEGMENTS, maps)
    with pytest.raises(InputError, match="at least one step"):
        TrajectoryStatistics(0)
