"""Covered pixels against the definition itself, in exact fractions, pixel by pixel."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.widgets import raster

SHAPE = (9, 13)
coordinate = st.floats(-6, 18, allow_nan=False)
point = st.tuples(coordinate, coordinate)


def rounded(value: float) -> Fraction:
    return Fraction(int(np.floor(4 * value + 0.5)), 4)


def centres():
    return [(y, x, Fraction(2 * x + 1, 2), Fraction(2 * y + 1, 2)) for y in range(SHAPE[0]) for x in range(SHAPE[1])]


def squared_distance(px, py, a, b) -> Fraction:
    (ax, ay), (bx, by) = a, b
    length = (bx - ax) ** 2 + (by - ay) ** 2
    share = Fraction(0) if length == 0 else ((px - ax) * (bx - ax) + (py - ay) * (by - ay)) / length
    share = min(max(share, Fraction(0)), Fraction(1))
    return (px - ax - share * (bx - ax)) ** 2 + (py - ay - share * (by - ay)) ** 2


@settings(max_examples=60, deadline=None)
@given(st.lists(point, min_size=1, max_size=4), st.floats(0.1, 8))
def test_a_stroke_is_all_centres_within_the_radius(points, radius):
    places = [(rounded(x), rounded(y)) for x, y in points]
    reach = max(rounded(radius), Fraction(3, 4))
    pairs = list(itertools.pairwise(places)) or [(places[0], places[0])]
    mask = raster.stroke(SHAPE, points, radius)
    for y, x, px, py in centres():
        assert mask[y, x] == any(squared_distance(px, py, a, b) <= reach**2 for a, b in pairs)


@settings(max_examples=60, deadline=None)
@given(point, point)
def test_a_rectangle_is_all_centres_between_its_corners(a, b):
    (x0, x1), (y0, y1) = (sorted(map(rounded, pair)) for pair in zip(a, b))
    mask = raster.rectangle(SHAPE, *a, *b)
    for y, x, px, py in centres():
        assert mask[y, x] == (x0 <= px < x1 and y0 <= py < y1)


@settings(max_examples=100, deadline=None)
@given(st.lists(point, min_size=1, max_size=6))
def test_a_lasso_is_all_centres_it_winds_around(points):
    places = [(rounded(x), rounded(y)) for x, y in points]
    mask = raster.lasso(SHAPE, points)
    for y, x, px, py in centres():
        turns = 0
        for (ax, ay), (bx, by) in zip(places, [*places[1:], places[0]]):
            if min(ay, by) <= py < max(ay, by) and px >= ax + (bx - ax) * (py - ay) / (by - ay):
                turns += 1 if by > ay else -1
        assert mask[y, x] == (turns != 0)


def test_a_rectangle_of_whole_numbers_is_a_slice():
    expected = np.zeros(SHAPE, bool)
    expected[2:5, 3:11] = True
    np.testing.assert_array_equal(raster.rectangle(SHAPE, 3, 2, 11, 5), expected)


def test_the_smallest_brush_paints_wherever_it_is_put():
    for x in np.arange(1, 3, 0.25):
        for y in np.arange(1, 3, 0.25):
            assert raster.stroke(SHAPE, [(x, y)], 0.1).any()


def test_a_loop_drawn_twice_around_stays_filled():
    loop = [(2, 2), (10, 2), (10, 7), (2, 7)]
    np.testing.assert_array_equal(raster.lasso(SHAPE, loop * 2), raster.lasso(SHAPE, loop))


def test_numbers_far_outside_are_exact_too():
    mask = raster.stroke((4096, 4096), [(-1e9, -1e9), (1e9, 1e9)], 1e9)
    assert mask[2000, 2000] and mask[0, 300] and not mask[0, 600]


def test_bits_survive_packing():
    mask = np.random.default_rng(0).random(SHAPE) < 0.5
    np.testing.assert_array_equal(raster.unpack(raster.pack(mask), SHAPE), mask)


@pytest.mark.parametrize("points", [[], [1, 2], [(1, 2, 3)], [(1, np.nan)], [("a", "b")], 3])
def test_points_that_are_none_are_refused(points):
    with pytest.raises(InputError, match="points"):
        raster.stroke(SHAPE, points, 2)


@pytest.mark.parametrize("radius", [0, -1, np.nan, np.inf, "3", None, True])
def test_radii_that_are_none_are_refused(radius):
    with pytest.raises(InputError, match="radius"):
        raster.stroke(SHAPE, [(1, 1)], radius)
