"""Ray casting of planned scenes: geometry, occlusion and light."""

from dataclasses import replace

import numpy as np
import pytest

from ldmseg_lib.data.scenes import rendering
from ldmseg_lib.data.scenes.layout import plan_scene
from ldmseg_lib.data.scenes.plan import Plan
from ldmseg_lib.data.scenes.rendering import (
    AROUND,
    CENTRE,
    FAR_GROUND,
    FIRST_THING,
    NEAR_GROUND,
    SKY,
    WALL,
    cast,
    shade,
)

SIZE = 48


@pytest.fixture(scope="module")
def plans() -> list[Plan]:
    return [plan_scene(np.random.default_rng(seed), things=5) for seed in range(24)]


def _points(plan: Plan, hits: rendering.Hits) -> np.ndarray:
    """World points of the hits [3, size, size]; the sky's are not finite."""
    with np.errstate(invalid="ignore"):
        return hits.directions[:, 0] * hits.depth[0] + np.array([0, plan.camera.height, 0])[:, None, None]


def test_of_several_things_the_nearest_is_seen(plans):
    for plan in plans:
        whole = cast(plan, SIZE, CENTRE)
        alone = [cast(replace(plan, things=things), SIZE, CENTRE) for things in [(), *((t,) for t in plan.things)]]
        depths = np.stack([hits.depth[0] for hits in alone])
        np.testing.assert_array_equal(whole.depth[0], depths.min(0))
        nearest = np.where(depths.min(0) < depths[0], FIRST_THING - 1 + depths.argmin(0), alone[0].surface[0])
        np.testing.assert_array_equal(whole.surface[0], nearest)


def test_things_hide_one_another(plans):
    hidden = 0
    for plan in plans:
        whole = cast(plan, SIZE, CENTRE).surface
        for index, thing in enumerate(plan.things):
            alone = cast(replace(plan, things=(thing,)), SIZE, CENTRE).surface == FIRST_THING
            visible = whole == FIRST_THING + index
            assert not np.any(visible & ~alone)
            hidden += visible.sum() < 0.9 * alone.sum()
    assert hidden >= 10


def test_depth_leads_back_to_the_planes_of_the_scene(plans):
    seen = set()
    for plan in plans:
        hits = cast(plan, SIZE, CENTRE)
        points, surface = _points(plan, hits), hits.surface[0]
        seen |= set(np.unique(surface))
        ground = (surface == NEAR_GROUND) | (surface == FAR_GROUND)
        assert np.all(np.abs(points[1][ground]) < 1e-4 * (1 + hits.depth[0][ground]))
        for wall in plan.walls:
            distances = np.tensordot(wall.away, points[:, surface == WALL], 1) - wall.distance
            assert distances.max(initial=0) < 1e-3, "nothing is seen behind a wall"
        if plan.boundary:
            assert np.all(plan.boundary.beyond(*points[[0, 2]][:, surface == FAR_GROUND]) > -1e-3)
            assert np.all(plan.boundary.beyond(*points[[0, 2]][:, surface == NEAR_GROUND]) < 1e-3)
        np.testing.assert_array_equal(np.isinf(hits.depth[0]), surface == SKY)
        things = surface >= FIRST_THING
        assert points[1][things].min(initial=0) > -2e-3, "things stand on the ground, not in it"
        assert np.all(points[1][things] < 5)
    assert {SKY, NEAR_GROUND, FAR_GROUND, WALL} <= seen


def test_depth_runs_along_the_optical_axis(plans):
    for plan in plans:
        directions = cast(plan, SIZE, CENTRE).directions[:, 0]
        axis = np.array([0, -np.sin(plan.camera.pitch), np.cos(plan.camera.pitch)])
        np.testing.assert_allclose(np.tensordot(axis, directions, 1), 1, atol=1e-6)


def test_casting_only_inside_the_projected_box_loses_nothing(plans, monkeypatch):
    inside = [cast(plan, SIZE, AROUND) for plan in plans]
    monkeypatch.setattr(rendering, "_window", lambda plan, thing, size: (slice(0, size), slice(0, size)))
    for plan, hits in zip(plans, inside):
        everywhere = cast(plan, SIZE, AROUND)
        np.testing.assert_array_equal(hits.surface, everywhere.surface)
        np.testing.assert_array_equal(hits.depth, everywhere.depth)


def test_things_do_not_touch_and_stand_before_the_walls(plans):
    for plan in plans:
        for index, thing in enumerate(plan.things):
            for other in plan.things[:index]:
                apart = np.hypot(*(thing.centre - other.centre)[[0, 2]])
                assert apart >= thing.spread + other.spread
            for wall in plan.walls:
                assert wall.away @ thing.centre + thing.spread <= wall.distance


def test_things_cast_shadows_and_light_nothing(plans):
    shadowed = 0
    for plan in plans:
        # without reflections a thing can only take light from the surfaces around it
        matt = tuple((stuff, replace(material, mirror=0.0)) for stuff, material in plan.ground)
        plan = replace(plan, ground=matt, wall_material=replace(plan.wall_material, mirror=0.0))
        hits = cast(plan, SIZE, AROUND)
        empty = replace(plan, things=())
        with_things, without = shade(plan, hits).astype(int), shade(empty, cast(empty, SIZE, AROUND)).astype(int)
        background = np.all(hits.surface < FIRST_THING, axis=0)
        difference = (without - with_things)[background]
        assert difference.min() >= -1
        shadowed += (difference.max(-1) > 40).sum()
    assert shadowed > 24 * 30


def test_colours_are_smoothed_over_several_rays(plans):
    """At the edges of things a pixel's rays meet different surfaces, evenly spread over the pixel."""
    assert len(AROUND) >= 4 and np.abs(AROUND).max() < 0.5
    np.testing.assert_allclose(AROUND.mean(0), 0, atol=1e-7)
    surfaces = [cast(plan, SIZE, AROUND).surface for plan in plans]
    assert sum(np.any(surface != surface[0], axis=0).sum() for surface in surfaces) > 24 * 50
