"""The description of a scene of the embedded data set, from which its picture is drawn.

The frame: x to the right, y up, z away from the camera, which stands at (0, height, 0) and looks down by `pitch`.
Lengths are in metres. Colours are linear RGB in [0, 1].
"""

import math
from dataclasses import dataclass

import numpy as np

from .shapes import SHAPES

Color = tuple[float, float, float]


@dataclass(frozen=True)
class Material:
    """How a surface looks: two colours mixed by a pattern, fine `speckle`, and how it reflects (each in [0, 1])."""

    pattern: str
    first: Color
    second: Color
    frequency: tuple[float, float]
    turn: float = 0.0
    speckle: float = 0.1
    specular: float = 0.0
    shininess: float = 30.0
    mirror: float = 0.0


@dataclass(frozen=True)
class Thing:
    """One object: its shape in SHAPES, `world = centre + rotation @ (scale * local)`, its material."""

    shape: str
    centre: np.ndarray
    rotation: np.ndarray
    scale: np.ndarray
    material: Material

    @property
    def radius(self) -> float:
        """The radius of a ball around its centre that holds it."""
        return float(np.linalg.norm(self.half))

    @property
    def half(self) -> np.ndarray:
        """Half its size along its own axes."""
        return self.scale * np.array(SHAPES[self.shape].half)

    @property
    def spread(self) -> float:
        """The radius of the upright cylinder around it: things further apart than their spreads do not touch."""
        upright = int(np.abs(self.rotation[1]).argmax())
        if (upright == 1 and self.shape != "box") or self.shape == "sphere":
            return float(self.scale[0])
        return float(np.hypot(*np.delete(self.half, upright)))


@dataclass(frozen=True)
class Boundary:
    """Where the ground changes from its first material to its second: beyond a wavy line across the ground."""

    angle: float
    distance: float
    wave: float
    phase: float

    def beyond(self, x: np.ndarray | float, z: np.ndarray | float) -> np.ndarray | float:
        """How far beyond the line the points of the ground lie, in metres (negative: before it)."""
        along = x * math.cos(self.angle) - z * math.sin(self.angle)
        across = x * math.sin(self.angle) + z * math.cos(self.angle)
        return across - self.distance - self.wave * np.sin(0.9 * along + self.phase)


@dataclass(frozen=True)
class Wall:
    """An upright plane at `distance` from the origin in the direction `angle` (0: straight ahead), up to `height`."""

    angle: float
    distance: float
    height: float

    @property
    def away(self) -> np.ndarray:
        """The unit vector from the camera's side into the wall."""
        return np.array([math.sin(self.angle), 0.0, math.cos(self.angle)])


@dataclass(frozen=True)
class Light:
    """Light from one direction (a unit vector towards it), blurred by `softness`, over light from all around."""

    direction: np.ndarray
    color: Color
    softness: float
    above: Color
    below: Color


@dataclass(frozen=True)
class Camera:
    """A pinhole camera; `half_width` is the tangent of half its field of view."""

    height: float
    pitch: float
    half_width: float


@dataclass(frozen=True)
class Plan:
    """Everything that a picture is drawn from. `ground` holds one or two pairs of stuff name and material."""

    camera: Camera
    light: Light
    ground: tuple[tuple[str, Material], ...]
    boundary: Boundary | None
    walls: tuple[Wall, ...]
    wall_material: Material
    zenith: Color
    horizon: Color
    cloudiness: float
    sky_shift: float
    haze: float
    things: tuple[Thing, ...] = ()
