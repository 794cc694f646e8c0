"""Figures of notebook 12: quality at few steps, and where samples of one image agree."""

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float, Int, UInt8
from matplotlib.figure import Figure

from ...pipeline.segment_colors import matched_ids
from ..plots import STYLE, show_panoptic, show_picture

IdMap = Int[np.ndarray, "height width"]
Row = tuple[UInt8[np.ndarray, "height width 3"], IdMap, Sequence[IdMap], IdMap, Float[np.ndarray, "height width"]]
"""Image, true ids, samples, consensus, and the share of samples that agree with it."""


def few_step_curves(table: pd.DataFrame) -> Figure:
    """Class-agnostic PQ and PQ in percent against seconds of an image, by model and sampler.

    Points of the student and of the teacher's first sampler are labelled by their steps.

    Args:
        table: as `few_step_tables.few_steps` makes it.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 3.0))
        axes = figure.subplots(1, 2, sharex=True)
        for ax, name in zip(axes, ("class-agn. PQ", "PQ")):
            labelled = set()
            for (model, sampler), rows in table.groupby(["model", "sampler"], sort=False):
                seconds, heights = rows["time [s]"].astype(float), rows[name].astype(float)
                student = model == "student"
                style = {"marker": "s", "linewidth": 2} if student else {"marker": "o", "linewidth": 1}
                ax.plot(seconds, heights, markersize=4, label=f"{model}, {sampler}", **style)
                if model in labelled:
                    continue
                labelled.add(model)
                for steps, x, y in zip(rows["# iters"], seconds, heights):
                    ax.annotate(str(steps), (x, y), xytext=(2, 3), textcoords="offset points", fontsize=6)
            ax.set(title=name, xscale="log", xlabel="seconds of an image", ylabel="%", ylim=(0, None))
        axes[1].legend(loc="lower right")
    return figure


def agreement_sheet(rows: Sequence[Row]) -> Figure:
    """One row an image: photo, truth, samples, consensus, and the agreement map (dark: few samples agree).

    A segment keeps its colour along the row, as far as samples can be matched to the truth.
    """
    count = len(rows[0][2])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.25 * (count + 4), 1.35 * len(rows) + 0.2))
        grid = figure.subplots(len(rows), count + 4, squeeze=False)
        titles = ["image", "ground truth", *(f"sample {n + 1}" for n in range(count)), "consensus", "agreement"]
        for ax, title in zip(grid[0], titles):
            ax.set_title(title, fontsize=8)
        for axes, (image, truth, samples, consensus, share) in zip(grid, rows):
            show_picture(axes[0], image)
            for ax, ids in zip(axes[1:], (truth, *samples, consensus)):
                show_panoptic(ax, image, ids if ids is truth else matched_ids(ids, truth))
            axes[-1].imshow(share, cmap="cividis", vmin=1 / max(count, 1), vmax=1)
            axes[-1].set_axis_off()
    return figure


def reliability_curve(table: pd.DataFrame) -> Figure:
    """The share of right pixels, and of all pixels, by the number of samples that agree.

    Args:
        table: as `few_step_tables.agreement_levels` makes it.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.5, 2.8))
        ax = figure.subplots()
        ax.bar(table["samples that agree"], table["pixels"].astype(float), color="0.8", label="of all pixels")
        ax.plot(table["samples that agree"], table["right"].astype(float), marker="o", label="of these, right")
        ax.set(xlabel="samples that agree", ylabel="%", ylim=(0, 105))
        ax.legend()
    return figure
