"""One scene of the embedded data set: a picture with exact instance ids, classes and inverse depth, from a seed."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from ...core.errors import InputError
from ...core.randomness import numpy_generator
from .layout import plan_scene
from .plan import Plan
from .rendering import AROUND, CENTRE, FAR_GROUND, FIRST_THING, NEAR_GROUND, SKY, WALL, Hits, cast, shade

# Raised with every change of what a seed draws, so that a folder drawn by another version is noticed.
VERSION = 5

CATEGORIES: list[dict[str, Any]] = [
    {"id": 1, "name": "sphere", "isthing": 1, "supercategory": "object", "color": [214, 48, 80]},
    {"id": 2, "name": "box", "isthing": 1, "supercategory": "object", "color": [168, 104, 56]},
    {"id": 3, "name": "cylinder", "isthing": 1, "supercategory": "object", "color": [52, 120, 206]},
    {"id": 4, "name": "cone", "isthing": 1, "supercategory": "object", "color": [244, 190, 40]},
    {"id": 5, "name": "torus", "isthing": 1, "supercategory": "object", "color": [150, 76, 190]},
    {"id": 6, "name": "floor", "isthing": 0, "supercategory": "ground", "color": [176, 176, 168]},
    {"id": 7, "name": "grass", "isthing": 0, "supercategory": "ground", "color": [100, 160, 70]},
    {"id": 8, "name": "sand", "isthing": 0, "supercategory": "ground", "color": [222, 202, 150]},
    {"id": 9, "name": "water", "isthing": 0, "supercategory": "ground", "color": [60, 150, 170]},
    {"id": 10, "name": "wall", "isthing": 0, "supercategory": "background", "color": [150, 110, 100]},
    {"id": 11, "name": "sky", "isthing": 0, "supercategory": "background", "color": [160, 200, 236]},
]
"""The classes in COCO's form; a category's `color` is also about the colour of its segments in the id PNGs."""

_CATEGORY = {category["name"]: category for category in CATEGORIES}

# Shares of the picture: 16 pixels at 64 x 64 for a thing, 64 for stuff.
_MIN_THING_SHARE = 16 / 4096
_MIN_STUFF_SHARE = 64 / 4096
_ATTEMPTS = 200


@dataclass(frozen=True)
class Scene:
    """A drawn scene.

    Attributes:
        image: RGB.
        ids: the segment of each pixel, by the ray through its centre, from 1 to 2^24 - 1. Every pixel belongs to one.
        segments: {"id", "category_id"} of each segment: things first, then stuff.
        inverse_depth: 1 / (distance along the optical axis in metres), in (0, 2]; 0 for the sky, infinitely far.
    """

    image: UInt8[np.ndarray, "size size 3"]
    ids: Int[np.ndarray, "size size"]
    segments: list[dict[str, int]]
    inverse_depth: Float[np.ndarray, "size size"]


def draw_scene(seed: int, *, size: int, min_things: int, max_things: int) -> Scene:
    """Draw the scene of `seed` at size x size pixels, with `min_things` to `max_things` visible things.

    A thing that is nearly hidden is left out, and a scene with too few things left is planned anew. What a scene shows
    depends a little on `size`, because what is nearly hidden does.

    Raises:
        InputError: `size` below 16, or not 1 <= min_things <= max_things <= 12.
    """
    if size < 16:
        raise InputError(f"a scene of {size} pixels shows nothing; give a size of at least 16")
    if not 1 <= min_things <= max_things <= 12:
        raise InputError(
            f"{min_things} to {max_things} things cannot be drawn; give 1 <= min_things <= max_things <= 12"
        )
    wanted = int(numpy_generator("scene", VERSION, seed).integers(min_things, max_things + 1))
    for attempt in range(_ATTEMPTS):
        rng = numpy_generator("scene", VERSION, seed, attempt)
        plan, hits = _without_hidden(plan_scene(rng, things=wanted), size)
        # many things seldom all show: one fewer is asked for with every few attempts
        if _stuff_shows(hits) and len(plan.things) >= max(min_things, wanted - attempt // 3):
            break
    else:
        raise InputError(f"scene {seed}: no room for {min_things} things in {_ATTEMPTS} attempts; ask for fewer")
    ids, segments = _segments(plan, hits.surface[0], rng)
    with np.errstate(divide="ignore"):
        inverse_depth = np.float32(1) / hits.depth[0]
    return Scene(shade(plan, cast(plan, size, AROUND)), ids, segments, inverse_depth)


def _without_hidden(plan: Plan, size: int) -> tuple[Plan, Hits]:
    """The plan without things that hardly show, and what the pixels' centres then see."""
    hits = cast(plan, size, CENTRE)
    counts = np.bincount(hits.surface.reshape(-1), minlength=FIRST_THING + len(plan.things))
    visible = counts[FIRST_THING:] >= _MIN_THING_SHARE * size * size
    if visible.all():
        return plan, hits
    plan = replace(plan, things=tuple(thing for thing, shows in zip(plan.things, visible, strict=True) if shows))
    return plan, cast(plan, size, CENTRE)


def _stuff_shows(hits: Hits) -> bool:
    counts = np.bincount(hits.surface.reshape(-1), minlength=FIRST_THING)[:FIRST_THING]
    return not np.any((counts > 0) & (counts < _MIN_STUFF_SHARE * hits.surface.size))


def _segments(plan: Plan, surface: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, list[dict[str, int]]]:
    """Ids for the surfaces that are seen. An id is a colour near its category's, so that the PNGs can be looked at."""
    names = {FIRST_THING + index: thing.shape for index, thing in enumerate(plan.things)}
    names |= dict(zip((NEAR_GROUND, FAR_GROUND), (stuff for stuff, _ in plan.ground), strict=False))
    names |= {WALL: "wall", SKY: "sky"}
    lookup = np.zeros(max(names) + 1, dtype=np.int32)
    segments: list[dict[str, int]] = []
    for code, name in names.items():
        if not np.any(surface == code):
            continue
        category = _CATEGORY[name]
        segment_id, reach = 0, 28
        while segment_id == 0 or any(segment_id == other["id"] for other in segments):
            red, green, blue = np.clip(np.array(category["color"]) + rng.integers(-reach, reach + 1, 3), 1, 255)
            segment_id = int(red + 256 * green + 65536 * blue)
        lookup[code] = segment_id
        segments.append({"id": segment_id, "category_id": category["id"]})
    return lookup[surface], segments
