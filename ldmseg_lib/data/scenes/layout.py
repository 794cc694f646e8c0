"""What stands where in a scene of the embedded data set, and what it is made of, drawn from a random generator."""

import colorsys
import math
from dataclasses import dataclass, replace

import numpy as np

from .plan import Boundary, Camera, Color, Light, Material, Plan, Thing, Wall
from .shapes import SHAPES
from .textures import PATTERNS


def color(hue: float, saturation: float, value: float) -> Color:
    """Linear RGB of a hue in degrees, saturation and value in [0, 1] (a gamma of 2 is assumed throughout)."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 360 / 360, min(saturation, 1.0), min(value, 1.0))
    return red * red, green * green, blue * blue


@dataclass(frozen=True)
class _Family:
    """The colours and materials that things of one class mostly have."""

    hue: tuple[float, float]
    saturation: tuple[float, float]
    value: tuple[float, float]
    patterns: tuple[str, ...]
    frequency: tuple[float, float]
    specular: float
    shininess: float
    mirror: float


# Colour and pattern help to tell the classes apart; what is left to the shape alone is the share of _STRAY objects.
_FAMILIES = {
    "sphere": _Family((338, 366), (0.68, 0.95), (0.62, 0.95), ("plain", "stripes", "clouds"), (4, 2), 0.6, 60, 0.12),
    "box": _Family((14, 36), (0.45, 0.7), (0.42, 0.72), ("planks", "bricks", "checker"), (2, 3), 0.03, 12, 0.0),
    "cylinder": _Family((196, 232), (0.45, 0.85), (0.5, 0.85), ("plain", "bands", "waves"), (1, 2.5), 0.7, 40, 0.22),
    "cone": _Family((40, 56), (0.8, 1.0), (0.85, 1.0), ("plain", "bands", "bands"), (1, 2), 0.15, 20, 0.0),
    "torus": _Family((268, 304), (0.45, 0.85), (0.5, 0.85), ("plain", "stripes", "checker"), (6, 3), 0.4, 40, 0.08),
}
_STRAY = 0.12


def _thing_material(rng: np.random.Generator, shape: str) -> Material:
    family = _FAMILIES[shape]
    palette = _FAMILIES[str(rng.choice(list(_FAMILIES)))] if rng.random() < _STRAY else family
    hue, saturation, value = (rng.uniform(*span) for span in (palette.hue, palette.saturation, palette.value))
    first = color(hue, saturation, value)
    pattern = str(rng.choice(sorted(PATTERNS) if rng.random() < _STRAY else family.patterns))
    if rng.random() < 0.5:
        second = color(hue + rng.uniform(-15, 15), 0.12 * saturation, 0.75 + 0.25 * rng.random())
    else:
        second = color(hue + rng.uniform(-25, 25), saturation, value * rng.uniform(0.35, 0.6))
    stretch = 2.0 ** rng.uniform(-0.5, 0.5)
    frequency = (max(1.0, round(family.frequency[0] * stretch)), family.frequency[1] * stretch)
    return Material(
        pattern=pattern,
        first=first,
        second=second,
        frequency=frequency,
        speckle=0.12,
        specular=family.specular * rng.uniform(0.7, 1.0),
        shininess=family.shininess,
        mirror=family.mirror * rng.uniform(0.5, 1.3),
    )


def _ground_material(rng: np.random.Generator, stuff: str) -> Material:
    turn = rng.uniform(0, math.pi)
    if stuff == "grass":
        hue, value = rng.uniform(78, 112), rng.uniform(0.38, 0.58)
        first, second = color(hue, 0.72, value), color(hue - 18, 0.62, value * 1.25)
        return Material("clouds", first, second, (0.9, 0.9), turn, speckle=0.75)
    if stuff == "sand":
        hue, value = rng.uniform(34, 46), rng.uniform(0.74, 0.92)
        first, second = color(hue, rng.uniform(0.28, 0.42), value), color(hue - 4, 0.4, value * 0.82)
        return Material(str(rng.choice(["clouds", "waves"])), first, second, (0.8, 1.6), turn, speckle=0.3)
    if stuff == "water":
        hue = rng.uniform(178, 212)
        deep, shallow = color(hue, 0.8, rng.uniform(0.3, 0.5)), color(hue - 8, 0.6, rng.uniform(0.5, 0.65))
        return Material("waves", deep, shallow, (0.35, 0.9), turn, speckle=0.0, specular=0.8, shininess=90, mirror=0.55)
    pattern = str(rng.choice(["tiles", "checker", "planks", "clouds"]))
    hue, saturation = rng.choice([30, 20, 210, 0, 190, 45]) + rng.uniform(-8, 8), rng.uniform(0.04, 0.26)
    value = rng.uniform(0.5, 0.85)
    if pattern == "planks":
        hue, saturation, value = rng.uniform(18, 34), rng.uniform(0.35, 0.55), rng.uniform(0.45, 0.75)
    first = color(hue, saturation, value)
    second = color(hue, saturation * 1.2, value * rng.uniform(0.45, 0.7))
    size = rng.uniform(0.7, 1.3)
    return Material(pattern, first, second, (size, size), turn, speckle=0.14, specular=0.12, shininess=40, mirror=0.04)


def _wall_material(rng: np.random.Generator) -> Material:
    pattern = str(rng.choice(["bricks", "plain", "stripes", "planks", "clouds"]))
    if pattern == "bricks":
        first = color(rng.uniform(8, 24), rng.uniform(0.4, 0.6), rng.uniform(0.45, 0.65))
        return Material(pattern, first, color(30, 0.1, 0.75), (1.3, 1.3), speckle=0.3)
    if pattern == "planks":
        first = color(rng.uniform(18, 36), rng.uniform(0.25, 0.5), rng.uniform(0.4, 0.7))
        return Material(pattern, first, color(20, 0.5, 0.2), (1.2, 1.6), speckle=0.2)
    hue, saturation, value = rng.uniform(0, 360), rng.uniform(0.05, 0.32), rng.uniform(0.6, 0.9)
    second = color(hue + rng.uniform(-20, 20), saturation * 1.3, value * rng.uniform(0.72, 0.88))
    frequency = {"stripes": (1.1, 1.0), "plain": (1.0, 1.0), "clouds": (0.7, 0.7)}[pattern]
    return Material(pattern, color(hue, saturation, value), second, frequency, speckle=0.15)


def _rotation(axis: int, angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    first, second = [other for other in range(3) if other != axis]
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = c
    matrix[first, second], matrix[second, first] = -s, s
    return matrix


def _pose(rng: np.random.Generator, shape: str, size: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Rotation [3, 3], scale [3] and the height of the centre over the ground."""
    turn = _rotation(1, rng.uniform(0, 2 * math.pi))
    if shape == "sphere":
        return turn, np.full(3, size), size
    if shape == "torus":
        scale = np.full(3, size * 1.15)
        if rng.random() < 0.6:
            upright = _rotation(1, rng.uniform(-0.9, 0.9)) @ _rotation(0, math.pi / 2)
            return upright, scale, float(scale[0])
        return turn, scale, float(scale[0] * SHAPES["torus"].half[1])
    if shape == "box":
        scale = size * np.array([rng.uniform(0.7, 1.05), rng.uniform(0.55, 1.15), rng.uniform(0.7, 1.05)])
        return turn, scale, float(scale[1])
    slim = rng.uniform(0.62, 0.85)
    scale = size * np.array([slim, rng.uniform(0.85, 1.2), slim])
    if shape == "cylinder" and rng.random() < 0.3:
        return _rotation(1, rng.uniform(-0.8, 0.8)) @ _rotation(2, math.pi / 2), scale, float(scale[0])
    return turn, scale, float(scale[1])


_UNPAINTED = Material("plain", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), (1.0, 1.0))


def _place_things(rng: np.random.Generator, plan: Plan, count: int) -> tuple[Thing, ...]:
    """Up to `count` things that touch neither each other nor a wall, and whose centres are in the picture."""
    camera = plan.camera
    nearest = camera.height / math.tan(camera.pitch + math.atan(camera.half_width))
    # the first wall is the one straight ahead
    farthest = min([6.5] + [wall.distance - 0.3 for wall in plan.walls[:1]])
    things: list[Thing] = []
    taken: list[tuple[float, float, float]] = []
    crowding = 1.45 - 0.09 * count
    for _ in range(count):
        shape = str(rng.choice(list(_FAMILIES)))
        # the shape is settled before a place is sought: slim things, which fit anywhere, would crowd out others else
        for attempt in range(20):
            size = crowding * rng.uniform(0.62, 1.05) * 0.97**attempt
            rotation, scale, height = _pose(rng, shape, size)
            first = nearest + 0.9 * size
            z = rng.uniform(first, max(farthest - size, first))
            x = rng.uniform(-0.86, 0.86) * camera.half_width * z
            thing = Thing(shape, np.array([x, height, z]), rotation, scale, _UNPAINTED)
            spread = thing.spread
            if any(math.hypot(x - other_x, z - other_z) < spread + other for other_x, other_z, other in taken):
                continue
            if any(wall.away @ thing.centre + spread > wall.distance for wall in plan.walls):
                continue
            if plan.boundary and plan.ground[1][0] == "water" and plan.boundary.beyond(x, z) > -0.7 * spread:
                continue
            things.append(replace(thing, material=_thing_material(rng, shape)))
            taken.append((x, z, spread))
            break
    return tuple(things)


def _surroundings(rng: np.random.Generator) -> Plan:
    """A scene without things: a room, a meadow, a walled garden, a beach or a terrace."""
    kind = str(rng.choice(["room", "meadow", "garden", "beach", "terrace"], p=[0.4, 0.18, 0.12, 0.15, 0.15]))
    camera = Camera(rng.uniform(1.5, 2.4), math.radians(rng.uniform(5, 15)), rng.uniform(0.46, 0.54))
    ground = {"room": "floor", "meadow": "grass", "garden": "grass", "beach": "sand", "terrace": "floor"}[kind]
    materials = [(ground, _ground_material(rng, ground))]
    boundary: Boundary | None = None
    walls: tuple[Wall, ...] = ()
    if kind == "room":
        angle = rng.uniform(-0.25, 0.25)
        walls = (Wall(angle, rng.uniform(7.0, 10.0), 30.0),)
        if rng.random() < 0.5:
            # on the side where it leads away from the view and leaves room
            walls += (Wall(angle + math.copysign(math.pi / 2, angle), rng.uniform(2.2, 3.2), 30.0),)
    elif kind == "garden":
        walls = (Wall(rng.uniform(-0.2, 0.2), rng.uniform(6.5, 9.5), rng.uniform(2.0, 3.2)),)
    if kind == "beach" or kind == "terrace" or (kind in ("meadow", "garden") and rng.random() < 0.2):
        beyond = {
            "beach": "water",
            "terrace": str(rng.choice(["water", "grass"])),
            "meadow": "water",
            "garden": "floor",
        }
        stuff = beyond[kind]
        materials.append((stuff, _ground_material(rng, stuff)))
        straight = "floor" in (ground, stuff)
        boundary = Boundary(
            angle=rng.uniform(-0.6, 0.6),
            distance=rng.uniform(4.2, 6.0) if kind == "garden" else rng.uniform(5.5, 8.0),
            wave=0.0 if straight else rng.uniform(0.1, 0.35),
            phase=rng.uniform(0, 2 * math.pi),
        )
    indoors = kind == "room"
    hue = rng.uniform(200, 218)
    zenith, horizon = color(hue, rng.uniform(0.45, 0.7), rng.uniform(0.65, 0.9)), color(hue, 0.12, 0.97)
    if rng.random() < 0.2:
        zenith, horizon = color(hue + 10, 0.35, 0.7), color(28, 0.35, 1.0)
    return Plan(
        camera=camera,
        light=_light(rng, indoors=indoors),
        ground=tuple(materials),
        boundary=boundary,
        walls=walls,
        wall_material=_wall_material(rng),
        zenith=zenith,
        horizon=horizon,
        cloudiness=rng.uniform(0.0, 0.9),
        sky_shift=rng.uniform(0, 60),
        haze=0.0 if indoors else rng.uniform(0.004, 0.014),
    )


def _light(rng: np.random.Generator, *, indoors: bool) -> Light:
    # always from the camera's side, so that walls and the visible sides of things are lit
    azimuth, elevation = rng.uniform(-1.15, 1.15), math.radians(rng.uniform(34, 64))
    direction = np.array(
        [math.sin(azimuth) * math.cos(elevation), math.sin(elevation), -math.cos(azimuth) * math.cos(elevation)]
    )
    if indoors:
        warm = rng.uniform(0.0, 0.12)
        return Light(direction, (1.0, 1 - warm, 1 - 2 * warm), 0.11, (0.42, 0.41, 0.4), (0.2, 0.18, 0.16))
    return Light(direction, (1.15, 1.08, 0.95), 0.05, (0.3, 0.36, 0.46), (0.15, 0.14, 0.11))


def plan_scene(rng: np.random.Generator, *, things: int) -> Plan:
    """Draw a scene with `things` things; where there is no room, fewer."""
    plan = _surroundings(rng)
    return replace(plan, things=_place_things(rng, plan, things))
