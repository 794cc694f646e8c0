"""Solid shapes for the embedded data set: where a ray enters them, their normals and surface coordinates.

Every shape stands in its own frame, inside the box [-1, 1]^3 with y up; a scene scales, turns and moves it. That affine
map does not change the parameter t of a ray `origin + t * direction`, so depths found here are depths in the scene.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Rays = Float[np.ndarray, "3 rays"]
Distances = Float[np.ndarray, " rays"]

TORUS_RING, TORUS_TUBE = 0.68, 0.32

_MARCHING_STEPS = 120
_MARCHING_TOLERANCE = 2e-4


def _entry(near: np.ndarray, far: np.ndarray, possible: np.ndarray | bool = True) -> np.ndarray:
    """The entry of the interval [near, far] where it is not empty and lies ahead of the origin, else infinity."""
    return np.where(possible & (near < far) & (near > 0), near, np.float32(np.inf))


def _slab(origin: np.ndarray, direction: np.ndarray, half: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    inverse = 1 / np.where(np.abs(direction) < 1e-9, np.float32(1e-9), direction)
    first, second = (-half - origin) * inverse, (half - origin) * inverse
    return np.minimum(first, second), np.maximum(first, second)


def _enter_sphere(origin: Rays, direction: Rays) -> Distances:
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    a = dx * dx + dy * dy + dz * dz
    b = ox * dx + oy * dy + oz * dz
    c = ox * ox + oy * oy + oz * oz - 1
    discriminant = b * b - a * c
    root = np.sqrt(np.maximum(discriminant, 0))
    return _entry((-b - root) / a, (-b + root) / a, discriminant > 0)


def _enter_box(origin: Rays, direction: Rays, half: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Distances:
    near, far = _box_interval(origin, direction, half)
    return _entry(near, far)


def _box_interval(
    origin: np.ndarray, direction: np.ndarray, half: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    slabs = [_slab(origin[axis], direction[axis], half[axis]) for axis in range(3)]
    near = np.maximum(np.maximum(slabs[0][0], slabs[1][0]), slabs[2][0])
    far = np.minimum(np.minimum(slabs[0][1], slabs[1][1]), slabs[2][1])
    return near, far


def _enter_cylinder(origin: Rays, direction: Rays) -> Distances:
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    a = np.maximum(dx * dx + dz * dz, 1e-9)
    b = ox * dx + oz * dz
    discriminant = b * b - a * (ox * ox + oz * oz - 1)
    root = np.sqrt(np.maximum(discriminant, 0))
    bottom, top = _slab(oy, dy)
    return _entry(np.maximum((-b - root) / a, bottom), np.minimum((-b + root) / a, top), discriminant > 0)


def _enter_cone(origin: Rays, direction: Rays) -> Distances:
    """Apex at y = 1, base of radius 1 at y = -1: x^2 + z^2 = ((1 - y) / 2)^2."""
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    down = 1 - oy
    a = dx * dx + dz * dz - dy * dy / 4
    a = np.where(np.abs(a) < 1e-9, np.float32(1e-9), a)
    b = ox * dx + oz * dz + down * dy / 4
    discriminant = b * b - a * (ox * ox + oz * oz - down * down / 4)
    root = np.sqrt(np.maximum(discriminant, 0))
    best = np.full_like(ox, np.inf)
    for t in ((-b - root) / a, (-b + root) / a):
        hit = (discriminant > 0) & (t > 0) & (np.abs(oy + t * dy) <= 1)
        best = np.where(hit, np.minimum(best, t), best)
    t = (-1 - oy) / np.where(np.abs(dy) < 1e-9, np.float32(1e-9), dy)
    on_base = (t > 0) & ((ox + t * dx) ** 2 + (oz + t * dz) ** 2 <= 1)
    return np.where(on_base, np.minimum(best, t), best)


def _enter_torus(origin: Rays, direction: Rays) -> Distances:
    """By marching along the ray in steps of the exact distance to the torus, inside its bounding box only."""
    found = np.full(origin.shape[1], np.inf, dtype=origin.dtype)
    near, far = _box_interval(origin, direction, (1.0, TORUS_TUBE, 1.0))
    active = np.flatnonzero((near < far) & (far > 0))
    o, d, far = origin[:, active], direction[:, active], far[active]
    t = np.maximum(near[active], 0)
    length = np.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
    for step in range(_MARCHING_STEPS):
        x, y, z = o + t * d
        ring = np.sqrt(x * x + z * z) - np.float32(TORUS_RING)
        distance = np.sqrt(ring * ring + y * y) - np.float32(TORUS_TUBE)
        t = t + distance / length
        # sorting out the rays that are done costs more than a few steps with them
        if step % 5 != 4:
            continue
        hit = distance < _MARCHING_TOLERANCE
        found[active[hit]] = t[hit]
        keep = np.flatnonzero(~hit & (t < far))
        if not len(keep):
            break
        active, o, d, far, t, length = (array.take(keep, axis=-1) for array in (active, o, d, far, t, length))
    return found


def _sphere_normal(point: Rays) -> Rays:
    return point


def _box_normal(point: Rays) -> Rays:
    face = np.abs(point).argmax(0)
    return np.where(np.arange(3)[:, None] == face, np.sign(point), 0)


def _cylinder_normal(point: Rays) -> Rays:
    x, y, z = point
    cap = np.abs(y) > np.hypot(x, z)
    return np.stack([np.where(cap, 0, x), np.where(cap, np.sign(y), 0), np.where(cap, 0, z)])


def _cone_normal(point: Rays) -> Rays:
    x, y, z = point
    base = y < -1 + 1e-3
    radius = np.hypot(x, z)
    return np.stack([np.where(base, 0, x), np.where(base, -1, radius / 2), np.where(base, 0, z)])


def _torus_normal(point: Rays) -> Rays:
    x, y, z = point
    away = 1 - TORUS_RING / np.maximum(np.hypot(x, z), 1e-6)
    return np.stack([x * away, y, z * away])


def _turn(point: np.ndarray) -> np.ndarray:
    return np.arctan2(point[2], point[0]) / np.float32(2 * np.pi) + np.float32(0.5)


def _round_surface(point: Rays) -> Float[np.ndarray, "2 rays"]:
    return np.stack([_turn(point), (point[1] + 1) / 2])


def _cylinder_surface(point: Rays) -> Float[np.ndarray, "2 rays"]:
    cap = np.abs(point[1]) > np.hypot(point[0], point[2])
    return np.stack([_turn(point), np.where(cap, np.hypot(point[0], point[2]) / 2, (point[1] + 1) / 2)])


def _box_surface(point: Rays) -> Float[np.ndarray, "2 rays"]:
    face = np.abs(point).argmax(0)
    across = np.where(face == 0, point[2], point[0])
    along = np.where(face == 1, point[2], point[1])
    return np.stack([across + 1, along + 1]) / 2


def _torus_surface(point: Rays) -> Float[np.ndarray, "2 rays"]:
    tube = np.arctan2(point[1], np.hypot(point[0], point[2]) - TORUS_RING) / np.float32(2 * np.pi)
    return np.stack([_turn(point), tube + np.float32(0.5)])


@dataclass(frozen=True)
class Shape:
    """A solid in its own frame.

    Attributes:
        half: half its size along x, y, z; its bounding box is [-half, half].
        enter: `(origin, direction)`, each [3, rays] -> the t > 0 where each ray enters it [rays], infinity for a miss.
            A ray that starts inside or on the surface does not enter a convex shape again.
        normal: surface points [3, rays] -> outward normals, not of unit length.
        surface: surface points [3, rays] -> two surface coordinates in [0, 1], [2, rays]; around comes first.
    """

    half: tuple[float, float, float]
    enter: Callable[[Rays, Rays], Distances]
    normal: Callable[[Rays], Rays]
    surface: Callable[[Rays], Float[np.ndarray, "2 rays"]]


_UNIT = (1.0, 1.0, 1.0)
SHAPES = {
    "sphere": Shape(_UNIT, _enter_sphere, _sphere_normal, _round_surface),
    "box": Shape(_UNIT, _enter_box, _box_normal, _box_surface),
    "cylinder": Shape(_UNIT, _enter_cylinder, _cylinder_normal, _cylinder_surface),
    "cone": Shape(_UNIT, _enter_cone, _cone_normal, _round_surface),
    "torus": Shape((1.0, TORUS_TUBE, 1.0), _enter_torus, _torus_normal, _torus_surface),
}
