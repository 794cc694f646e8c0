"""Procedural textures for the embedded data set: how two colours mix over a surface.

A pattern is a function of two surface coordinates (one unit is one period) and of `blur`, the size of a pixel on the
surface in the same unit: where a period shrinks towards a pixel, the pattern fades to its mean and does not flicker.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Coordinate = Float[np.ndarray, " points"]

_TABLE_SIZE = 64
# One fixed table of random numbers serves every scene: looking up is several times faster than hashing lattice points.
_TABLE = np.random.Generator(np.random.PCG64(20231)).random(_TABLE_SIZE * _TABLE_SIZE, dtype=np.float32)


def _lattice(column: np.ndarray, row: np.ndarray) -> np.ndarray:
    column, row = column.astype(np.intp), row.astype(np.intp)
    return _TABLE[(row % _TABLE_SIZE) * _TABLE_SIZE + column % _TABLE_SIZE]


def value_noise(u: Coordinate, v: Coordinate) -> Coordinate:
    """Smooth noise in [0, 1] with features of one unit, of period 64."""
    left, low = np.floor(u), np.floor(v)
    x, y = u - left, v - low
    x, y = x * x * (3 - 2 * x), y * y * (3 - 2 * y)
    # the table's size is a power of two, so that a mask wraps negative coordinates too
    left, low = left.astype(np.intp) & (_TABLE_SIZE - 1), low.astype(np.intp) & (_TABLE_SIZE - 1)
    right, high = (left + 1) & (_TABLE_SIZE - 1), ((low + 1) & (_TABLE_SIZE - 1)) * _TABLE_SIZE
    low = low * _TABLE_SIZE
    below, above = _TABLE.take(low + left), _TABLE.take(high + left)
    below += x * (_TABLE.take(low + right) - below)
    above += x * (_TABLE.take(high + right) - above)
    return below + y * (above - below)


def cloud_noise(u: Coordinate, v: Coordinate, blur: Coordinate | float = 0.0, octaves: int = 3) -> Coordinate:
    """Noise in [0, 1] of several sizes, each half as large and half as strong as the one before."""
    total, weight, scale = np.full_like(u, 0.5), 0.5, 1.0
    for octave in range(octaves):
        fade = 1 / (1 + (2 * scale * blur) ** 2)
        shift = np.float32(17.3 * octave)
        total = total + weight * fade * (value_noise(u * scale + shift, v * scale + shift) - 0.5) * 1.2
        weight, scale = weight / 2, scale * 2.03
    return np.clip(total, 0, 1)


def _square_wave(x: np.ndarray, blur: np.ndarray | float) -> np.ndarray:
    triangle = 4 * np.abs(x - np.floor(x) - 0.5) - 1
    return np.clip(0.5 + triangle / np.maximum(8 * blur, 0.05), 0, 1)


def _blocks(
    u: np.ndarray, v: np.ndarray, blur: np.ndarray | float, *, offset: float, joint: tuple[float, float]
) -> np.ndarray:
    """Rows of blocks of differing tone (up to 0.55) with joints of tone 1; odd rows are shifted by `offset`."""
    row = np.floor(v)
    u = u + offset * (row % 2)
    column = np.floor(u)
    tone = 0.55 * _lattice(column * 7, row * 13)
    soft = np.maximum(blur, 0.01)
    edge = np.zeros_like(u)
    for inside, width in ((u - column, joint[0]), (v - row, joint[1])):
        gap = np.minimum(inside, 1 - inside)
        line = np.clip((width / 2 - gap) / soft + 0.5, 0, 1) * np.minimum(1, width / soft)
        edge = np.maximum(edge, line)
    fade = 1 / (1 + (2 * blur) ** 2)
    return fade * np.maximum(tone, edge) + (1 - fade) * 0.3


def plain(u: Coordinate, v: Coordinate, blur: Coordinate | float) -> Coordinate:
    """The first colour everywhere."""
    return np.zeros_like(u)


def checker(u: Coordinate, v: Coordinate, blur: Coordinate | float) -> Coordinate:
    """Squares of the two colours in turn."""
    return 0.5 + 2 * (_square_wave(u, blur) - 0.5) * (_square_wave(v, blur) - 0.5)


def bands(u: Coordinate, v: Coordinate, blur: Coordinate | float) -> Coordinate:
    """Stripes that go around."""
    return _square_wave(v, blur)


def stripes(u: Coordinate, v: Coordinate, blur: Coordinate | float) -> Coordinate:
    """Stripes that go up."""
    return _square_wave(u, blur)


def bricks(u: Coordinate, v: Coordinate, blur: Coordinate | float) -> Coordinate:
    """A wall of bricks; the joints have the second colour."""
    return _blocks(u, 2 * v, blur, offset=0.5, joint=(0.08, 0.16))


def planks(u: Coordinate, v: Coordinate, blur: Coordinate | float) -> Coordinate:
    """Long boards with thin gaps in the second colour."""
    return _blocks(u / 4, v, blur, offset=0.4, joint=(0.015, 0.1))


def tiles(u: Coordinate, v: Coordinate, blur: Coordinate | float) -> Coordinate:
    """Square tiles with joints in the second colour."""
    return _blocks(u, v, blur, offset=0.0, joint=(0.06, 0.06))


def clouds(u: Coordinate, v: Coordinate, blur: Coordinate | float) -> Coordinate:
    """Soft spots of the second colour."""
    return np.clip(2.2 * (cloud_noise(u, v, blur) - 0.5) + 0.5, 0, 1)


def waves(u: Coordinate, v: Coordinate, blur: Coordinate | float) -> Coordinate:
    """Wavy veins of the second colour."""
    fade = 1 / (1 + (3 * blur) ** 2)
    bent = v + 0.35 * np.sin(np.float32(2 * np.pi) * u) + 0.6 * value_noise(2 * u, 2 * v)
    return 0.5 + 0.5 * fade * np.sin(np.float32(2 * np.pi) * bent)


Pattern = Callable[[np.ndarray, np.ndarray, np.ndarray | float], np.ndarray]
PATTERNS: dict[str, Pattern] = {
    function.__name__: function for function in (plain, checker, bands, stripes, bricks, planks, tiles, clouds, waves)
}
