import numpy as np
import pytest
from PIL import Image

from ldmseg_lib.data import transforms


@pytest.mark.parametrize("shape", [(512, 512), (480, 640), (33, 57), (20, 10)])
@pytest.mark.parametrize("size", [64, 48, 100])
def test_maps_are_resized_at_block_centres_as_pillow_does(shape, size):
    array = np.arange(shape[0] * shape[1], dtype=np.int32).reshape(shape)
    expected = np.asarray(Image.fromarray(array).resize((size, size), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(transforms.resize_nearest(array, size), expected)


def test_512_to_64_takes_the_middle_of_each_block():
    columns = np.tile(np.arange(512), (512, 1))
    assert transforms.resize_nearest(columns, 64)[0, :3].tolist() == [4, 12, 20]


def test_resizing_an_image_is_antialiased():
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 254
    small = transforms.resize_image(stripes, 8)
    assert small.shape == (8, 8, 3)
    assert np.abs(small.astype(int) - 127).max() <= 8


@pytest.mark.parametrize("shape", [(10, 14), (3, 20), (20, 3), (3, 4)])
def test_a_crop_holds_the_picture_at_its_corner_and_fill_elsewhere(shape):
    array = np.arange(1, shape[0] * shape[1] + 1).reshape(shape)
    for seed in range(20):
        top, left = transforms.crop_corner(shape, 8, np.random.default_rng(seed))
        cropped = transforms.crop(array, (top, left), 8, fill=-1)
        assert cropped.shape == (8, 8)
        for row in range(8):
            for column in range(8):
                y, x = row + top, column + left
                inside = 0 <= y < shape[0] and 0 <= x < shape[1]
                assert cropped[row, column] == (array[y, x] if inside else -1)
        assert (cropped != -1).sum() == min(shape[0], 8) * min(shape[1], 8)


def test_random_corners_reach_every_place_and_the_fixed_one_is_central():
    corners = {transforms.crop_corner((10, 7), 8, np.random.default_rng(seed)) for seed in range(200)}
    assert corners == {(top, left) for top in (0, 1, 2) for left in (0, -1)}
    assert transforms.crop_corner((10, 20), 8) == (1, 6)
    assert transforms.crop_corner((4, 20), 8) == (-2, 6)


def test_position_order_sorts_by_centroid_from_the_left_then_the_top():
    index = np.zeros((8, 8), dtype=np.uint8)
    index[0:2, 5:7] = 1
    index[4:6, 0:2] = 2
    index[0:2, 0:2] = 3
    areas = np.bincount(index.ravel(), minlength=5)
    areas[0] = 0
    assert transforms.position_order(index, areas)[:3].tolist() == [3, 2, 1]


def test_only_the_smallest_segments_are_left_out():
    areas = np.array([90, 5, 7, 1, 7, 50])
    wanted = np.array([False, True, True, True, True, True])
    assert np.flatnonzero(transforms.largest(areas, wanted, 3)).tolist() == [2, 4, 5]
    assert np.flatnonzero(transforms.largest(areas, wanted, 2)).tolist() == [2, 5]
    assert transforms.largest(areas, wanted, 5) is wanted


def test_drawn_ids_are_distinct_uniform_and_never_void():
    drawn = np.array([transforms.draw_ids(5, 16, np.random.default_rng(seed)) for seed in range(3000)])
    assert all(len(set(row)) == 5 for row in drawn.tolist())
    counts = np.bincount(drawn.ravel(), minlength=16)
    assert counts[0] == 0
    # 1000 expected each; the standard deviation is about 26
    assert np.abs(counts[1:] - 1000).max() < 130
