"""Ray casting of a planned scene with NumPy: exact surfaces and depths, and a shaded, anti-aliased picture.

Rays are kept unnormalised with a component of 1 along the optical axis, so the parameter t of a hit is its depth.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int8, UInt8

from .plan import Light, Material, Plan, Thing
from .shapes import SHAPES
from .textures import PATTERNS, cloud_noise, value_noise

SKY, NEAR_GROUND, FAR_GROUND, WALL, FIRST_THING = range(5)

CENTRE = np.zeros((1, 2), dtype=np.float32)
"""The ray through a pixel's centre, which decides its id and depth."""

AROUND = np.array([(-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125)], dtype=np.float32)
"""A rotated 2 x 2 grid of rays, whose mean is a pixel's colour."""

# Where on the light's disc each of AROUND looks, so that the mean over a pixel gives a penumbra.
_LIGHT_DISC = np.array([(0.8, 0.3), (-0.3, 0.8), (-0.8, -0.3), (0.3, -0.8)], dtype=np.float32)
_CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float).T


@dataclass(frozen=True)
class Hits:
    """What each ray meets: its depth in metres (infinity: the sky) and the code of the surface."""

    directions: Float[np.ndarray, "3 samples height width"]
    depth: Float[np.ndarray, "samples height width"]
    surface: Int8[np.ndarray, "samples height width"]


def _directions(plan: Plan, size: int, samples: np.ndarray) -> np.ndarray:
    step = 2 * plan.camera.half_width / size
    pixel = (np.arange(size, dtype=np.float32) + np.float32(0.5 - size / 2)) * np.float32(step)
    offset = samples * np.float32(step)
    right = np.broadcast_to(pixel[None, None, :] + offset[:, 0, None, None], (len(samples), size, size))
    up = np.broadcast_to(-pixel[None, :, None] - offset[:, 1, None, None], right.shape)
    c, s = np.float32(math.cos(plan.camera.pitch)), np.float32(math.sin(plan.camera.pitch))
    return np.stack([right, c * up - s, c + s * up]).astype(np.float32)


def _frame(thing: Thing) -> tuple[np.ndarray, np.ndarray]:
    """The matrix from the world to the thing's own frame and its scale, in float32."""
    return (thing.rotation.T / thing.scale[:, None]).astype(np.float32), thing.centre.astype(np.float32)


def _apply(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    # written out, because BLAS may round differently with another number of rays or threads
    x, y, z = vectors
    result = np.empty((3, *x.shape), dtype=np.float32)
    for row, (a, b, c) in zip(result, matrix, strict=True):
        np.multiply(x, a, out=row)
        row += b * y
        row += c * z
    return result


def _dot(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    # several times faster than a sum over an axis of length 3
    return first[0] * second[0] + first[1] * second[1] + first[2] * second[2]


def _take(vectors: np.ndarray, where: np.ndarray) -> np.ndarray:
    return vectors.take(where, axis=1)


def _put(vectors: np.ndarray, where: np.ndarray, values: np.ndarray) -> None:
    # row by row: several times faster than one assignment to vectors[:, where]
    for row, value in zip(vectors, values, strict=True):
        row[where] = value


def _window(plan: Plan, thing: Thing, size: int) -> tuple[slice, slice]:
    """The rows and columns that the thing's projected bounding box can reach."""
    x, y, z = thing.rotation @ (_CORNERS * thing.half[:, None]) + thing.centre[:, None]
    y = y - plan.camera.height
    c, s = math.cos(plan.camera.pitch), math.sin(plan.camera.pitch)
    ahead = np.maximum(c * z - s * y, 0.05)
    column = (x / ahead / plan.camera.half_width + 1) * size / 2
    row = (1 - (c * y + s * z) / ahead / plan.camera.half_width) * size / 2
    top, bottom, left, right = (
        min(max(int(edge), 0), size) for edge in (row.min() - 1, row.max() + 2, column.min() - 1, column.max() + 2)
    )
    return slice(top, bottom), slice(left, right)


def cast(plan: Plan, size: int, samples: Float[np.ndarray, "samples 2"]) -> Hits:
    """Cast rays through each of size x size pixels, at offsets (right, down) from its centre in shares of a pixel."""
    directions = _directions(plan, size, samples)
    dx, dy, dz = directions
    height = np.float32(plan.camera.height)
    with np.errstate(divide="ignore"):
        depth = np.where(dy < -1e-6, -height / np.minimum(dy, -1e-6), np.float32(np.inf))
    surface = np.where(np.isfinite(depth), np.int8(NEAR_GROUND), np.int8(SKY))
    for wall in plan.walls:
        x, _, z = wall.away.astype(np.float32)
        toward = x * dx + z * dz
        t = np.float32(wall.distance) / np.maximum(toward, 1e-6)
        hit = (toward > 1e-6) & (t < depth) & (height + t * dy < wall.height)
        depth, surface = np.where(hit, t, depth), np.where(hit, np.int8(WALL), surface)
    if plan.boundary:
        t = np.where(surface == NEAR_GROUND, depth, 0)
        beyond = plan.boundary.beyond(t * dx, t * dz) > 0
        surface[beyond & (surface == NEAR_GROUND)] = FAR_GROUND
    for index, thing in enumerate(plan.things):
        rows, columns = _window(plan, thing, size)
        matrix, centre = _frame(thing)
        local = _apply(matrix, directions[:, :, rows, columns].reshape(3, -1))
        origin = _apply(matrix, (np.array([0, height, 0], dtype=np.float32) - centre)[:, None])
        t = SHAPES[thing.shape].enter(np.broadcast_to(origin, local.shape), local)
        t = t.reshape(depth[:, rows, columns].shape)
        nearer = t < depth[:, rows, columns]
        depth[:, rows, columns][nearer] = t[nearer]
        surface[:, rows, columns][nearer] = FIRST_THING + index
    return Hits(directions, depth, surface)


def _sky(plan: Plan, directions: np.ndarray) -> np.ndarray:
    dx, dy, dz = directions
    up = np.clip(dy / np.sqrt(dx * dx + dy * dy + dz * dz), 0, 1)
    mix = np.sqrt(up)
    zenith, horizon = (np.array(c, dtype=np.float32)[:, None] for c in (plan.zenith, plan.horizon))
    sky = horizon + mix * (zenith - horizon)
    spread = 0.9 / (np.maximum(dy, 0) + 0.12)
    cover = cloud_noise(dx * spread + np.float32(plan.sky_shift), dz * spread)
    cover = np.clip((cover - 0.75 + 0.35 * plan.cloudiness) * 3, 0, 0.85) * np.minimum(up * 10, 1)
    return sky + cover * (np.float32(0.97) - sky)


def _mix(material: Material, u: np.ndarray, v: np.ndarray, blur: np.ndarray, grain: np.ndarray | float) -> np.ndarray:
    u_turned, v_turned = u, v
    if material.turn:
        c, s = np.float32(math.cos(material.turn)), np.float32(math.sin(material.turn))
        u_turned, v_turned = c * u + s * v, c * v - s * u
    across, along = (np.float32(value) for value in material.frequency)
    share = PATTERNS[material.pattern](u_turned * across, v_turned * along, blur * max(across, along))
    first, second = (np.array(c, dtype=np.float32)[:, None] for c in (material.first, material.second))
    return (first + share * (second - first)) * (1 + material.speckle * (grain - 0.5))


def _ground_grain(u: np.ndarray, v: np.ndarray, blur: np.ndarray) -> np.ndarray:
    fine = value_noise(u * 9, v * 9) - 0.5
    coarse = value_noise(u * 2.7 + 5, v * 2.7) - 0.5
    return 0.5 + fine / (1 + (9 * blur) ** 2) + 0.6 * coarse / (1 + (3 * blur) ** 2)


def _water_normal(x: np.ndarray, z: np.ndarray, blur: np.ndarray) -> np.ndarray:
    fade = 0.16 / (1 + (2.5 * blur) ** 2)
    tilt_x = value_noise(2.2 * x, 3.5 * z) - 0.5
    tilt_z = value_noise(2.2 * x + 31, 3.5 * z + 17) - 0.5
    return np.stack([fade * tilt_x, np.ones_like(x), fade * 2 * tilt_z])


@dataclass
class _Surfaces:
    """Per shaded ray: points, unit normals, albedo [3, rays]; specular, shininess, mirror [rays]."""

    points: np.ndarray
    normals: np.ndarray
    albedo: np.ndarray
    gloss: np.ndarray

    def put(self, where: np.ndarray, normals: np.ndarray, albedo: np.ndarray, material: Material) -> None:
        _put(self.normals, where, normals)
        _put(self.albedo, where, albedo)
        _put(self.gloss, where, np.array([material.specular, material.shininess, material.mirror], dtype=np.float32))


def _surfaces(plan: Plan, hits: Hits, solid: np.ndarray) -> _Surfaces:
    directions = _take(hits.directions.reshape(3, -1), solid)
    depth, surface = hits.depth.reshape(-1)[solid], hits.surface.reshape(-1)[solid]
    points = directions * depth
    points[1] += np.float32(plan.camera.height)
    blur = depth * np.float32(2 * plan.camera.half_width / hits.depth.shape[-1])
    result = _Surfaces(points, np.zeros_like(points), np.zeros_like(points), np.zeros_like(points))

    for code, (stuff, material) in zip((NEAR_GROUND, FAR_GROUND), plan.ground, strict=False):
        where = np.flatnonzero(surface == code)
        x, z = points[0, where], points[2, where]
        # seen at a flat angle, a pixel is longer on the ground than it is wide
        slant = blur[where] * np.minimum(1 + 0.25 * depth[where], 6)
        albedo = _mix(material, x, z, slant, _ground_grain(x, z, slant) if material.speckle else 0.5)
        normals = _water_normal(x, z, slant) if stuff == "water" else np.array([[0], [1], [0]], dtype=np.float32)
        result.put(where, normals, albedo, material)
    if plan.walls:
        where = np.flatnonzero(surface == WALL)
        x, _, z = _take(points, where)
        fits = np.stack(
            [np.abs(np.float32(wall.away[0]) * x + np.float32(wall.away[2]) * z - wall.distance) for wall in plan.walls]
        ).argmin(0)
        for index, wall in enumerate(plan.walls):
            part = where[fits == index]
            along = points[0, part] * np.float32(wall.away[2]) - points[2, part] * np.float32(wall.away[0])
            up = points[1, part]
            albedo = _mix(plan.wall_material, along, up, blur[part], _ground_grain(along, up, blur[part]))
            result.put(part, -wall.away.astype(np.float32)[:, None], albedo, plan.wall_material)
    for index, thing in enumerate(plan.things):
        where = np.flatnonzero(surface == FIRST_THING + index)
        if not len(where):
            continue
        matrix, centre = _frame(thing)
        shape = SHAPES[thing.shape]
        local = _apply(matrix, _take(points, where) - centre[:, None])
        u, v = shape.surface(local)
        grain = value_noise(u * 16 + 3 * index, v * 9)
        albedo = _mix(thing.material, u, v, blur[where] / (3 * np.float32(thing.scale[0])), grain)
        # a plane's normal transforms with the transposed inverse, which is what `matrix` is
        result.put(where, _apply(matrix.T, shape.normal(local)), albedo, thing.material)
    result.normals /= np.sqrt(_dot(result.normals, result.normals)) + np.float32(1e-9)
    return result


def _light_directions(light: Light) -> np.ndarray:
    """One direction towards the light for each sample of a pixel, [3, samples]."""
    side = np.cross(light.direction, [0.0, 1.0, 0.0])
    side /= np.linalg.norm(side)
    other = np.cross(side, light.direction)
    toward = light.direction[:, None] + light.softness * (
        side[:, None] * _LIGHT_DISC[:, 0] + other[:, None] * _LIGHT_DISC[:, 1]
    )
    return (toward / np.linalg.norm(toward, axis=0)).astype(np.float32)


def _shadow(plan: Plan, points: np.ndarray, normals: np.ndarray, toward: np.ndarray) -> np.ndarray:
    """True where a thing stands between the point and the light."""
    shadowed = _dot(normals, toward) <= 0
    lifted = points + np.float32(3e-3) * normals
    for thing in plan.things:
        matrix, centre = _frame(thing)
        offset = centre[:, None] - lifted
        along = _dot(offset, toward)
        radius = np.float32(thing.radius)
        close = _dot(offset, offset) - along * along < radius * radius
        where = np.flatnonzero(close & (along > -radius) & ~shadowed)
        t = SHAPES[thing.shape].enter(_apply(matrix, -_take(offset, where)), _apply(matrix, _take(toward, where)))
        shadowed[where[np.isfinite(t)]] = True
    return shadowed


def _openness(plan: Plan, points: np.ndarray, normals: np.ndarray, surface: np.ndarray) -> np.ndarray:
    """How much of the light from all around arrives: less beside things, by the solid angle of their bounding balls."""
    openness = np.ones(points.shape[1], dtype=np.float32)
    for index, thing in enumerate(plan.things):
        offset = thing.centre.astype(np.float32)[:, None] - points
        square = _dot(offset, offset)
        radius = np.float32(0.8 * thing.radius)
        facing = np.maximum(_dot(offset, normals), 0) / np.sqrt(square)
        blocked = np.minimum(facing * radius * radius / square, 0.85)
        openness *= np.where(surface == FIRST_THING + index, 1, 1 - blocked)
    below = np.clip(points[1] * 2.5, 0, 1)
    return openness * (0.75 + 0.25 * np.where(surface >= FIRST_THING, below, 1))


def _environment(plan: Plan, directions: np.ndarray) -> np.ndarray:
    up = np.clip(directions[1] * 4 + 0.5, 0, 1)
    ground = np.array(plan.ground[0][1].first, dtype=np.float32)[:, None] * np.float32(0.7)
    if plan.walls and plan.walls[0].height > 20:
        above = np.array(plan.wall_material.first, dtype=np.float32)[:, None] * (
            0.6 + 0.6 * np.maximum(directions[1], 0)
        )
    else:
        zenith, horizon = (np.array(c, dtype=np.float32)[:, None] for c in (plan.zenith, plan.horizon))
        above = horizon + np.sqrt(np.maximum(directions[1], 0)) * (zenith - horizon)
    return ground + up * (above - ground)


def shade(plan: Plan, hits: Hits) -> UInt8[np.ndarray, "height width 3"]:
    """The picture of `hits`, which must be cast with AROUND: light, soft shadows, reflections and haze, averaged."""
    count, height, width = hits.depth.shape
    directions = hits.directions.reshape(3, -1)
    surface = hits.surface.reshape(-1)
    solid, open_sky = np.flatnonzero(surface != SKY), np.flatnonzero(surface == SKY)
    light = np.empty((3, count * height * width), dtype=np.float32)
    _put(light, open_sky, _sky(plan, _take(directions, open_sky)))

    scene = _surfaces(plan, hits, solid)
    toward = _take(_light_directions(plan.light), solid // (height * width))
    view = -_take(directions, solid)
    view /= np.sqrt(_dot(view, view))
    lit = np.where(_shadow(plan, scene.points, scene.normals, toward), np.float32(0), np.float32(1))
    sun, above, below = (
        np.array(c, dtype=np.float32)[:, None] for c in (plan.light.color, plan.light.above, plan.light.below)
    )
    diffuse = np.maximum(_dot(scene.normals, toward), 0) * lit
    ambient = below + (0.5 + 0.5 * scene.normals[1]) * (above - below)
    ambient = ambient * _openness(plan, scene.points, scene.normals, surface[solid])
    color = scene.albedo * (sun * diffuse + ambient)

    specular, shininess, mirror = scene.gloss
    glossy = np.flatnonzero(specular > 0)
    normals, seen, sunward = (_take(vectors, glossy) for vectors in (scene.normals, view, toward))
    half = sunward + seen
    half /= np.sqrt(_dot(half, half))
    shine = np.exp(shininess[glossy] * np.log(np.maximum(_dot(half, normals), 1e-6)))
    shown = _take(color, glossy) + sun * (specular[glossy] * shine * lit[glossy])

    facing = np.maximum(_dot(normals, seen), 0)
    reflected = _environment(plan, 2 * facing * normals - seen)
    grazing = (1 - facing) ** 2
    share = mirror[glossy] + (1 - mirror[glossy]) * grazing * grazing * np.minimum(4 * mirror[glossy], 1)
    _put(color, glossy, shown + share * (reflected - shown))

    if plan.haze:
        clear = np.exp(-np.float32(plan.haze) * hits.depth.reshape(-1)[solid])
        horizon = np.array(plan.horizon, dtype=np.float32)[:, None]
        color = horizon + clear * (color - horizon)
    _put(light, solid, color)
    encoded = np.sqrt(np.clip(light, 0, 1)).reshape(3, count, height, width)
    return np.rint(encoded.sum(1) * (255 / count)).astype(np.uint8).transpose(1, 2, 0)
