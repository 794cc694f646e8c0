"""Drawn scenes: what a seed gives, and what a model can learn from it."""

from collections import Counter

import numpy as np
import pytest

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.data.scenes.scene import CATEGORIES, Scene, draw_scene

DEMO = {"size": 64, "min_things": 2, "max_things": 5}
CATEGORY = {category["id"]: category for category in CATEGORIES}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(seed, **DEMO) for seed in range(60)]


def _things(scene: Scene) -> list[dict[str, int]]:
    return [segment for segment in scene.segments if CATEGORY[segment["category_id"]]["isthing"]]


def test_a_seed_gives_the_same_scene_again_and_another_seed_another(scenes):
    again = draw_scene(3, **DEMO)
    for name in ("image", "ids", "inverse_depth"):
        np.testing.assert_array_equal(getattr(again, name), getattr(scenes[3], name))
        assert not np.array_equal(getattr(again, name), getattr(scenes[4], name))
    assert again.segments == scenes[3].segments


def test_ids_and_segments_tell_the_same(scenes):
    for scene in scenes:
        assert scene.image.shape == (64, 64, 3) and scene.image.dtype == np.uint8
        assert scene.ids.shape == (64, 64) and scene.ids.dtype == np.int32
        ids = [segment["id"] for segment in scene.segments]
        assert sorted(ids) == np.unique(scene.ids).tolist()
        assert min(ids) > 0 and max(ids) < 2**24
        stuff = Counter(s["category_id"] for s in scene.segments if not CATEGORY[s["category_id"]]["isthing"])
        assert set(stuff.values()) == {1}, "a stuff class is one segment"


def test_inverse_depth_is_zero_in_the_sky_alone(scenes):
    sky_id = next(category["id"] for category in CATEGORIES if category["name"] == "sky")
    skies = 0
    for scene in scenes:
        skies_ids = [segment["id"] for segment in scene.segments if segment["category_id"] == sky_id]
        skies += len(skies_ids)
        assert scene.inverse_depth.dtype == np.float32
        np.testing.assert_array_equal(scene.inverse_depth == 0, np.isin(scene.ids, skies_ids))
        assert 0.1 < scene.inverse_depth.max() <= 2
    assert 10 < skies < 60


@pytest.mark.parametrize(("fewest", "most"), [(1, 1), (2, 5), (2, 9), (6, 9)])
def test_the_number_of_things_is_between_its_bounds(fewest, most):
    counts = Counter(len(_things(draw_scene(seed, size=32, min_things=fewest, max_things=most))) for seed in range(25))
    assert min(counts) >= fewest and max(counts) <= most
    assert len(counts) >= min(3, most - fewest + 1)


@pytest.mark.parametrize("size", [32, 64, 100])
def test_no_thing_is_a_speck(size):
    for seed in range(15):
        scene = draw_scene(seed, size=size, min_things=2, max_things=9)
        for segment in scene.segments:
            assert (scene.ids == segment["id"]).sum() >= 10 * (size / 64) ** 2


def test_every_class_occurs_about_equally_often_among_things(scenes):
    counts = Counter(segment["category_id"] for scene in scenes for segment in scene.segments)
    assert set(counts) == set(CATEGORY)
    things = [counts[number] for number, category in CATEGORY.items() if category["isthing"]]
    assert max(things) < 2 * min(things)


def test_things_of_the_demo_are_large(scenes):
    areas = [(scene.ids == segment["id"]).sum() for scene in scenes for segment in _things(scene)]
    assert 150 <= np.median(areas) <= 400
    assert np.mean(np.array(areas) < 32) < 0.1


def test_colour_alone_tells_most_things_apart(scenes):
    """A nearest-mean rule on the mean hue and saturation of a thing is right far more often than by chance (20 %)."""
    features, labels = [], []
    for scene in scenes:
        for segment in _things(scene):
            red, green, blue = scene.image[scene.ids == segment["id"]].mean(0) / 255
            features.append((red - green, green - blue, red + green + blue))
            labels.append(segment["category_id"])
    features, labels = np.array(features), np.array(labels)
    half = len(labels) // 2
    means = np.array([features[:half][labels[:half] == label].mean(0) for label in sorted(set(labels))])
    nearest = np.linalg.norm(features[half:, None] - means, axis=-1).argmin(1)
    right = np.array(sorted(set(labels)))[nearest] == labels[half:]
    assert right.mean() > 0.5
    assert right.mean() < 0.98, "some objects have the colours of another class, so that shape counts too"


def test_pictures_are_well_lit(scenes):
    for scene in scenes:
        assert 50 < scene.image.mean() < 215
        assert scene.image.std() > 18
        assert np.mean(scene.image.min(-1) == 255) < 0.1, "no large part is burnt out"


def test_categories_are_in_coco_form():
    assert len({category["id"] for category in CATEGORIES}) == len({c["name"] for c in CATEGORIES}) == len(CATEGORIES)
    assert sum(category["isthing"] for category in CATEGORIES) >= 5
    assert sum(1 - category["isthing"] for category in CATEGORIES) >= 4
    for category in CATEGORIES:
        assert set(category) == {"id", "name", "isthing", "supercategory", "color"}
        assert len(category["color"]) == 3 and all(0 <= value <= 255 for value in category["color"])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"size": 8}, "8 pixels"),
        ({"min_things": 6}, "6 to 5"),
        ({"min_things": 0}, "0 to 5"),
        ({"max_things": 99}, "99"),
    ],
)
def test_settings_that_cannot_be_drawn_are_refused(changes, named):
    with pytest.raises(InputError, match=named):
        draw_scene(0, **(DEMO | changes))
