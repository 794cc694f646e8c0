"""Figures of notebook 03: the palettes of the colour encodings."""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from ..plots import picture_grid, show_picture, styled


@styled
def palette_sheet(palettes: Mapping[str, Float[np.ndarray, "ids 3"]]) -> Figure:
    """The colours of each palette in the order of their ids, row by row of a square; id 0 is void and has none.

    Args:
        palettes: by name, channels in [-1, 1].
    """
    figure, axes = picture_grid(1, palettes, (1.6 * len(palettes), 1.9), fontsize=7)
    for ax, colors in zip(axes[0], palettes.values()):
        side = math.ceil(math.sqrt(len(colors)))
        cells = np.zeros((side * side, 3))
        cells[1 : len(colors)] = colors[1:]
        show_picture(ax, (cells.reshape(side, side, 3) + 1) / 2)
    return figure
