"""Where rays enter the shapes, against each shape's defining equation."""

import numpy as np
import pytest

from ldmseg_lib.data.scenes.shapes import SHAPES, TORUS_RING, TORUS_TUBE


def _outside(name: str, point: np.ndarray) -> np.ndarray:
    """Positive outside the shape, zero on its surface, negative inside."""
    x, y, z = point.astype(np.float64)
    radius = np.hypot(x, z)
    if name == "sphere":
        return np.sqrt(x * x + y * y + z * z) - 1
    if name == "box":
        return np.abs(point).max(0) - 1
    if name == "cylinder":
        return np.maximum(radius, np.abs(y)) - 1
    if name == "cone":
        return np.maximum(radius - (1 - y) / 2, -1 - y)
    return np.hypot(radius - TORUS_RING, y) - TORUS_TUBE


@pytest.fixture(scope="module")
def rays() -> tuple[np.ndarray, np.ndarray]:
    """Rays from a sphere of radius 6 towards points near the shapes; some hit and some miss each of them."""
    rng = np.random.default_rng(3)
    origin = rng.normal(size=(3, 1500))
    origin *= 6 / np.linalg.norm(origin, axis=0)
    return origin.astype(np.float32), (rng.uniform(-1.2, 1.2, (3, 1500)) - origin).astype(np.float32)


@pytest.mark.parametrize("name", SHAPES)
def test_a_ray_enters_at_the_first_point_of_the_solid(name, rays):
    origin, direction = rays
    t = SHAPES[name].enter(origin, direction)
    hit = np.isfinite(t)
    assert 100 < hit.sum() < 1450
    assert np.abs(_outside(name, origin[:, hit] + t[hit] * direction[:, hit])).max() < 2e-3

    steps = np.linspace(0, 2, 1500)[:, None]
    along = origin[:, None] + steps * direction[:, None]
    outside = _outside(name, along.reshape(3, -1)).reshape(1500, -1)
    # nothing of the solid lies on the ray before the entry, nor anywhere on a ray that misses; 4e-3 is a grazing touch
    before = steps < np.where(hit, t, np.inf)
    assert outside[before].min() > -4e-3


@pytest.mark.parametrize("name", SHAPES)
def test_normals_point_out_of_the_solid(name, rays):
    origin, direction = rays
    t = SHAPES[name].enter(origin, direction)
    hit = np.isfinite(t)
    point = origin[:, hit] + t[hit] * direction[:, hit]
    normal = SHAPES[name].normal(point)
    normal = normal / np.linalg.norm(normal, axis=0)
    facing = (normal * direction[:, hit]).sum(0) / np.linalg.norm(direction[:, hit], axis=0)
    # at an edge between two faces either normal will do
    assert np.mean(facing < 0.02) > 0.995
    assert np.mean(_outside(name, point + 0.01 * normal) > 0) > 0.995


@pytest.mark.parametrize("name", SHAPES)
def test_the_bounding_box_and_the_surface_coordinates_hold_the_shape(name, rays):
    origin, direction = rays
    t = SHAPES[name].enter(origin, direction)
    hit = np.isfinite(t)
    point = origin[:, hit] + t[hit] * direction[:, hit]
    half = np.array(SHAPES[name].half)
    assert np.all(np.abs(point).max(1) <= half + 1e-3)
    assert np.all(np.abs(point).max(1) >= 0.97 * half), "the box is tight"
    surface = SHAPES[name].surface(point)
    assert surface.min() >= -1e-3 and surface.max() <= 1 + 1e-3


@pytest.mark.parametrize("name", SHAPES)
def test_stretching_and_turning_a_shape_does_not_change_t(name, rays):
    origin, direction = rays
    matrix = np.diag([1.7, 0.6, 1.2]) @ np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    inverse = np.linalg.inv(matrix)
    world = matrix @ origin, matrix @ direction
    again = SHAPES[name].enter(*((inverse @ vectors).astype(np.float32) for vectors in world))
    t = SHAPES[name].enter(origin, direction)
    same = np.isfinite(t) == np.isfinite(again)
    assert same.mean() > 0.998
    both = np.isfinite(t) & np.isfinite(again)
    assert np.median(np.abs(t[both] - again[both])) < 1e-4


@pytest.mark.parametrize("name", ["sphere", "box", "cylinder"])
def test_a_ray_that_leaves_the_surface_does_not_meet_it_again(name, rays):
    origin, direction = rays
    t = SHAPES[name].enter(origin, direction)
    hit = np.isfinite(t)
    point = origin[:, hit] + t[hit] * direction[:, hit]
    normal = SHAPES[name].normal(point).astype(np.float32)
    assert not np.isfinite(SHAPES[name].enter(point + np.float32(1e-3) * normal, normal)).any()
