"""Figure S1: each task's map in its column, in colours that mean the same along a row and down a column."""

import numpy as np

from ldmseg_lib.experiments.multitask.plots import figure_s1


def scene(seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    draw = np.random.default_rng(seed)
    ids = np.repeat(np.repeat(draw.integers(0, 4, (4, 4)), 4, 0), 4, 1)
    maps = {
        "instance": ids,
        "semantic": np.where(ids > 0, 2, 0),
        "panoptic": ids * 7,
        "depth": draw.uniform(-1.2, 1.2, ids.shape).astype(np.float32),
    }
    return draw.integers(0, 256, (*ids.shape, 3), dtype=np.uint8), maps


def pictures(figure) -> list[list[np.ndarray]]:
    axes = [[ax.images[0] for ax in figure.axes[row * 5 : row * 5 + 5]] for row in range(2)]
    return [[np.asarray(image.get_array()) for image in row] for row in axes]


def test_columns_hold_the_image_and_the_maps_of_each_task():
    images, maps = zip(scene(0), scene(1), strict=True)
    figure = figure_s1(images, maps)
    assert [ax.get_title() for ax in figure.axes[:5]] == ["image", "instance", "semantic", "panoptic", "depth"]
    for row, image, found in zip(pictures(figure), images, maps, strict=True):
        assert np.allclose(row[0], image / 255)
        assert np.array_equal(row[1], row[3])  # one colour for a segment, whatever its number
        assert not np.array_equal(row[1], row[2])
        assert row[4].min() >= 0 and row[4].max() <= 1
        assert np.allclose(row[4], (found["depth"].clip(-1, 1) + 1) / 2)


def test_a_class_has_the_same_colour_in_every_row():
    flat = np.full((8, 8), 1)
    image = np.zeros((8, 8, 3), np.uint8)
    maps = [{"semantic": flat * label} for label in (2, 2, 3)]
    figure = figure_s1([image] * 3, maps, columns=["semantic"])
    drawn = [np.asarray(ax.images[0].get_array())[100, 100] for ax in figure.axes[1::2]]
    assert np.allclose(drawn[0], drawn[1]) and not np.allclose(drawn[0], drawn[2], atol=0.05)
