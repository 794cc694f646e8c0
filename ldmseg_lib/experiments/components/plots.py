"""Figures of notebook 07: what the image encoders see, the order of ids by steps, and quality by segment size."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure

from ...pipeline.segment_colors import PALETTE
from ..plots import curve, log_axis, panels, picture_grid, show_picture, styled


@styled
def feature_sheet(columns: Mapping[str, Float[np.ndarray, "images height width 3"]]) -> Figure:
    """Pictures side by side, one image a row, such as an image, its reconstruction, and features as colours.

    Args:
        columns: by title, RGB in [0, 1]; sizes may differ.
    """
    rows = list(zip(*columns.values()))
    figure, axes = picture_grid(len(rows), columns, (1.6 * len(columns), 1.5 * len(rows) + 0.3), fontsize=7)
    for ax, picture in zip(axes.flat, (picture for row in rows for picture in row)):
        show_picture(ax, picture)
    return figure


@styled
def id_order_curves(table: pd.DataFrame) -> Figure:
    """Quality in percent against denoising steps, a line for each order of ids.

    Args:
        table: as `tables.id_orders` makes it.
    """
    figure, axes = panels(2, (6, 2.8), sharex=True)
    for ax, name in zip(axes, ("class-agn. PQ", "PQ")):
        for marker, order in zip("os", ("random", "by position")):
            curve(ax, table["# iters"], table[f"{name}, {order}"], marker=marker, label=f"ids {order}")
        ax.set(title=name, xlabel="denoising steps", ylabel="%", ylim=(0, None))
        log_axis(ax.xaxis)
    axes[1].legend()
    return figure


@styled
def size_curves(latents: Sequence[Mapping[str, Any]]) -> Figure:
    """Class-agnostic PQ by segment area: predictions (solid) and the autoencoder alone (dashed), a colour for each f.

    Args:
        latents: the entry "latents" of `ComponentStudy.run`.
    """
    figure, (ax,) = panels(1, (5.5, 3.0))
    for color, entry in zip(PALETTE, latents):
        parts = (("prediction", entry["prediction"]["scores"], "-"), ("autoencoder", entry["reconstruction"], "--"))
        for name, scores, line in parts:
            heights = 100 * np.array([size["pq"] for size in scores["sizes"]], float)
            label = f"f = {entry['factor']}, {name}"
            curve(ax, range(len(heights)), heights, linestyle=line, color=color, label=label)
    labels = [f"{size['min_area']}+" for size in latents[0]["reconstruction"]["sizes"]]
    ax.set(xticks=range(len(labels)), xticklabels=labels, xlabel="segment area, px", ylabel="PQ, %", ylim=(0, 100))
    ax.legend(fontsize=7)
    return figure
