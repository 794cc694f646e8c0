"""Figures of notebook 07: what the image encoders see, the order of ids by steps, and quality by segment size."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure

from ...pipeline.segment_colors import PALETTE
from ..plots import STYLE, show_picture


def feature_sheet(columns: Mapping[str, Float[np.ndarray, "images height width 3"]]) -> Figure:
    """Pictures side by side, one image a row, such as an image, its reconstruction, and features as colours.

    Args:
        columns: by title, RGB in [0, 1]; sizes may differ.
    """
    rows = min(len(pictures) for pictures in columns.values())
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.6 * len(columns), 1.5 * rows + 0.3))
        axes = figure.subplots(rows, len(columns), squeeze=False)
        for line, *row in zip(axes, *columns.values()):
            for ax, picture in zip(line, row):
                show_picture(ax, picture)
        for ax, title in zip(axes[0], columns):
            ax.set_title(title, fontsize=7)
    return figure


def id_order_curves(table: pd.DataFrame) -> Figure:
    """Quality in percent against denoising steps, a line for each order of ids.

    Args:
        table: as `component_tables.id_orders` makes it.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6, 2.8))
        axes = figure.subplots(1, 2, sharex=True)
        for ax, name in zip(axes, ("class-agn. PQ", "PQ")):
            for marker, order in zip("os", ("random", "by position")):
                heights = table[f"{name}, {order}"].astype(float)
                ax.plot(table["# iters"], heights, marker=marker, markersize=3, label=f"ids {order}")
            ax.set(title=name, xscale="log", xlabel="denoising steps", ylim=(0, None))
        axes[0].set(ylabel="%")
        axes[1].legend()
    return figure


def size_curves(latents: Sequence[Mapping[str, Any]]) -> Figure:
    """Class-agnostic PQ by segment area: predictions (solid) and the autoencoder alone (dashed), a colour for each f.

    Args:
        latents: the entry "latents" of `component_study.ComponentStudy.run`.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.5, 3.0))
        ax = figure.subplots()
        labels: list[str] = []
        for color, entry in zip(PALETTE, latents):
            parts = (("prediction", entry["prediction"]["scores"], "-"), ("autoencoder", entry["reconstruction"], "--"))
            for name, scores, line in parts:
                heights = [np.nan if s["pq"] is None else 100 * s["pq"] for s in scores["sizes"]]
                label = f"f = {entry['factor']}, {name}"
                ax.plot(range(len(heights)), heights, line, color=color, marker="o", markersize=3, label=label)
                labels = [f"{s['min_area']}+" for s in scores["sizes"]]
        ax.set(xticks=range(len(labels)), xticklabels=labels, xlabel="area of a segment, px", ylabel="PQ, %")
        ax.set_ylim(0, 100)
        ax.legend(fontsize=7)
    return figure
