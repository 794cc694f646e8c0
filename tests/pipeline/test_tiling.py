"""Maps cut into tiles come back as they were, whatever the sizes and whatever the tiles call their segments."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.pipeline.tiling import fill_batches, place_tiles


def cells(size: tuple[int, int], count: int, generator: np.random.Generator) -> np.ndarray:
    """A map of `count` convex cells (those that have pixels), every fifth one void."""
    pixels = np.stack(np.indices(size), axis=-1).reshape(-1, 2)
    _, nearest = cKDTree(generator.uniform(0, size, (count, 2))).query(pixels)
    ids = nearest.reshape(size) + 1
    return np.where(ids % 5 == 0, 0, ids)


def renamed(tiles: list[np.ndarray], generator: np.random.Generator) -> list[np.ndarray]:
    """The same segments with new ids in every tile, void as it is."""
    names = (np.concatenate([[0], generator.permutation(999) + 1]) for _ in tiles)
    return [name[tile] for name, tile in zip(names, tiles)]


def partition(ids: np.ndarray) -> set[frozenset[int]]:
    """The segments as sets of pixels, whatever their ids."""
    return {frozenset(np.flatnonzero(ids == i).tolist()) for i in np.unique(ids) if i}


sides = st.integers(1, 70)


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.integers(8, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_a_map_cut_into_tiles_is_stitched_back(height, width, tile_size, count, seed):
    generator = np.random.default_rng(seed)
    ids = cells((height, width), count, generator)
    overlap = int(generator.integers(1, tile_size // 2 + 1))
    for grid in (place_tiles(ids.shape, tile_size), place_tiles(ids.shape, tile_size, overlap=overlap)):
        tiles = renamed(grid.cut(ids), generator)
        stitched = grid.stitch_ids(tiles)
        assert stitched.shape == ids.shape
        assert stitched.dtype == np.int32
        assert partition(stitched) == partition(ids)
        assert np.array_equal(np.unique(stitched[stitched > 0]), np.arange(1, stitched.max() + 1))


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.integers(2, 40), st.integers(0, 2**31))
def test_tiles_cover_the_image_evenly_and_stay_inside_it(height, width, tile_size, seed):
    overlap = int(np.random.default_rng(seed).integers(1, tile_size))
    grid = place_tiles((height, width), tile_size, overlap=overlap)
    for starts, length in ((grid.tops, height), (grid.lefts, width)):
        if length <= tile_size:
            assert len(starts) == 1
            assert starts[0] <= 0
            assert starts[0] + tile_size >= length
        else:
            steps = np.diff(starts)
            assert starts[0] == 0
            assert starts[-1] == length - tile_size
            assert steps.max() <= tile_size - overlap
            assert steps.max() - steps.min() <= 1
            assert (len(starts) - 2) * (tile_size - overlap) + tile_size < length, "one tile less would do"


@pytest.mark.parametrize("size", [(31, 47), (9, 47), (9, 9), (16, 16), (17, 16)])
def test_every_pixel_of_a_stitched_map_comes_from_the_tile_with_the_nearest_centre(size):
    grid = place_tiles(size, 16)
    number = grid.stitch([np.full((16, 16), k) for k in range(len(grid))])
    centres = np.array(grid.corners) + 7.5
    distances = np.abs(np.stack(np.indices(size), axis=-1)[:, :, None] - centres).sum(-1)
    chosen = np.take_along_axis(distances, number[..., None], axis=-1)[..., 0]
    assert np.array_equal(chosen, distances.min(-1))


def test_values_and_channels_pass_unchanged_through_cut_and_stitch():
    image = np.random.default_rng(0).integers(0, 256, (50, 33, 3), dtype=np.uint8)
    grid = place_tiles((50, 33), 20)
    assert grid.stitch(grid.cut(image)).dtype == np.uint8
    assert np.array_equal(grid.stitch(grid.cut(image)), image)


def test_an_image_smaller_than_a_tile_lies_in_its_middle_on_black():
    image = np.full((6, 4, 3), 200, np.uint8)
    (tile,) = place_tiles((6, 4), 10).cut(image)
    assert tile.shape == (10, 10, 3)
    assert (tile[2:8, 3:7] == 200).all()
    assert tile.sum() == image.sum()


def test_what_a_tile_shows_beyond_the_image_is_ignored():
    grid = place_tiles((6, 30), 10, overlap=3)
    ids = np.zeros((6, 30), int)
    ids[1:5] = 7
    tiles = [np.where(tile == 0, 3, tile) for tile in grid.cut(ids)]
    for tile in tiles:
        tile[:2] = 7
    stitched = grid.stitch_ids(tiles)
    assert partition(stitched) == partition(np.where(ids == 0, 3, ids))


def test_a_segment_across_four_tiles_is_one():
    ids = np.zeros((28, 28), int)
    ids[10:18, 10:18] = 1
    grid = place_tiles(ids.shape, 16)
    tiles = renamed(grid.cut(ids), np.random.default_rng(1))
    assert len(grid) == 4
    assert len({int(tile.max()) for tile in tiles}) == 4
    assert np.array_equal(grid.stitch_ids(tiles), ids)


def test_touching_segments_stay_apart_where_their_ids_are_swapped_between_tiles():
    ids = np.ones((16, 28), int)
    ids[8:] = 2
    grid = place_tiles(ids.shape, 16)
    left, right = grid.cut(ids)
    stitched = grid.stitch_ids([left, 3 - right])
    assert partition(stitched) == partition(ids)


def test_a_segment_that_ends_in_the_strip_keeps_apart_from_its_neighbour():
    """Left tile: the upper half; right tile: everything. On the strip their IoU is one half, which is not above."""
    grid = place_tiles((16, 28), 16)
    left, right = np.zeros((16, 16), int), np.ones((16, 16), int)
    left[:8] = 1
    assert len(partition(grid.stitch_ids([left, right]))) == 2
    left[8] = 1
    assert len(partition(grid.stitch_ids([left, right]))) == 1


def test_tiles_that_disagree_around_a_corner_do_not_merge_what_one_of_them_saw_apart():
    """Three tiles see one segment, the fourth two: following all links around would make these two one."""
    grid = place_tiles((28, 28), 16)
    tiles = [np.ones((16, 16), int) for _ in grid.corners]
    tiles[0][np.triu_indices(16)] = 2
    tiles[0][12:, 12:] = 0
    stitched = grid.stitch_ids(tiles)
    assert stitched[13, 0] != stitched[0, 13]
    assert {stitched[13, 0], stitched[0, 13]} & {stitched[27, 27]}


def test_more_segments_than_a_tile_has_ids():
    ids = np.kron(np.arange(1, 401).reshape(20, 20), np.ones((4, 4), int))
    grid = place_tiles(ids.shape, 20, overlap=4)
    tiles = []
    for tile in grid.cut(ids):
        _, few = np.unique(tile, return_inverse=True)
        tiles.append(few.reshape(tile.shape) + 1)
    assert max(int(tile.max()) for tile in tiles) <= 36
    assert partition(grid.stitch_ids(tiles)) == partition(ids)


def test_the_minimum_area_counts_pixels_of_the_whole_map():
    ids = np.zeros((16, 28), int)
    ids[2:4, 8:20] = 1  # 24 pixels, 16 of them in each tile
    ids[10:12, 2:10] = 2  # 16 pixels in one tile
    grid = place_tiles(ids.shape, 16)
    tiles = grid.cut(ids)
    assert np.array_equal(grid.stitch_ids(tiles, min_area=24) > 0, ids == 1)
    assert np.array_equal(grid.stitch_ids(tiles, min_area=16) > 0, ids > 0)


def test_wrong_tiles_are_refused():
    grid = place_tiles((20, 20), 12)
    with pytest.raises(InputError, match="has 4 tiles of 12 x 12, not 3 of them"):
        grid.stitch([np.zeros((12, 12))] * 3)
    with pytest.raises(InputError, match=r"not one of \(12, 11\)"):
        grid.stitch_ids([np.zeros((12, 11), int)] * 4)
    with pytest.raises(InputError, match="does not fit"):
        grid.cut(np.zeros((21, 20)))
    with pytest.raises(InputError, match="cannot overlap by 12"):
        place_tiles((20, 20), 12, overlap=12)
    with pytest.raises(InputError, match="tile_size of at least 2"):
        place_tiles((20, 20), 0)


@given(st.lists(st.integers(1, 12)), st.integers(1, 12))
def test_batches_keep_every_item_and_pass_the_limit_only_with_one(counts, limit):
    batches = list(fill_batches(counts, lambda count: count, limit))
    assert [count for batch in batches for count in batch] == counts
    assert all(len(batch) == 1 or sum(batch) <= limit for batch in batches)
    assert all(sum(first) + second[0] > limit for first, second in itertools.pairwise(batches))
