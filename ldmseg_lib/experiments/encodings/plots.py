"""Figures of notebook 03: what the palettes look like, and how each encoding's autoencoder draws the same maps."""

import math
from collections.abc import Mapping

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from ..plots import STYLE


def palette_sheet(palettes: Mapping[str, Float[np.ndarray, "ids 3"]]) -> Figure:
    """The colours of each palette in the order of their ids, row by row of a square; id 0 is void and has none.

    Args:
        palettes: by name, channels in [-1, 1].
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.6 * len(palettes), 1.9))
        axes = figure.subplots(1, len(palettes), squeeze=False)[0]
        for ax, (name, colors) in zip(axes, palettes.items()):
            side = math.ceil(math.sqrt(len(colors)))
            cells = np.zeros((side * side, 3))
            cells[1 : len(colors)] = colors[1:]
            ax.imshow((cells.reshape(side, side, 3) + 1) / 2, interpolation="nearest")
            ax.set_title(name, fontsize=7)
            ax.set_axis_off()
    return figure
