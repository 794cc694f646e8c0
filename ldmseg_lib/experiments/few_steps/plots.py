"""Figures of notebook 12: quality at few steps, and where samples of one image agree."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, UInt8
from matplotlib.figure import Figure

from ...pipeline.segment_colors import matched_ids
from ..plots import annotate_points, curve, log_axis, panels, picture_grid, show_panoptic, show_picture, styled

IdMap = Int[np.ndarray, "height width"]
Row = tuple[UInt8[np.ndarray, "height width 3"], IdMap, Sequence[IdMap], IdMap, Float[np.ndarray, "height width"]]
"""Image, true ids, samples, consensus, and the share of samples that agree with it."""


@styled
def few_step_curves(table: pd.DataFrame) -> Figure:
    """Class-agnostic PQ and PQ in percent against latency per image, by model and sampler.

    Points of the student and of the teacher's first sampler are labelled by their steps.

    Args:
        table: as `tables.few_steps` makes it.
    """
    figure, axes = panels(2, (7.5, 3.0), sharex=True)
    for ax, name in zip(axes, ("class-agn. PQ", "PQ")):
        labelled = set()
        for (model, sampler), rows in table.groupby(["model", "sampler"], sort=False):
            marker, width = ("s", 2) if model == "student" else ("o", 1)
            style = {"marker": marker, "linewidth": width, "markersize": 4}
            curve(ax, rows["time [s]"], rows[name], label=f"{model}, {sampler}", **style)
            if model not in labelled:
                annotate_points(ax, rows["time [s]"], rows[name], rows["# iters"])
            labelled.add(model)
        ax.set(title=name, xlabel="latency per image, s", ylabel="%", ylim=(0, None))
        log_axis(ax.xaxis)
    axes[1].legend(loc="lower right")
    return figure


@styled
def agreement_sheet(rows: Sequence[Row]) -> Figure:
    """One row an image: photo, truth, samples, consensus, and the agreement map (dark: few samples agree).

    A segment keeps its colour along the row, as far as samples can be matched to the truth.
    """
    count = len(rows[0][2])
    titles = ["image", "ground truth", *(f"sample {n + 1}" for n in range(count)), "consensus", "agreement"]
    figure, grid = picture_grid(len(rows), titles, (1.25 * len(titles), 1.35 * len(rows) + 0.2), fontsize=8)
    for axes, (image, truth, samples, consensus, share) in zip(grid, rows):
        show_picture(axes[0], image)
        for ax, ids in zip(axes[1:], (truth, *samples, consensus)):
            show_panoptic(ax, image, ids if ids is truth else matched_ids(ids, truth))
        axes[-1].imshow(share, cmap="cividis", vmin=1 / max(count, 1), vmax=1)
        axes[-1].set_axis_off()
    return figure


@styled
def pretrained_sheet(rows: Sequence[tuple[np.ndarray, ...]], *, samples: int) -> Figure:
    """One row an image: the image, ground truth, one sample, the consensus of `samples`, and their agreement.

    Args:
        rows: image, true ids, ids of one sample, ids of the consensus, share of the samples that agree in [0, 1].
        samples: how many there were.
    """
    titles = ["image", "ground truth", "one sample", f"consensus of {samples}", "agreement"]
    figure, grid = picture_grid(len(rows), titles, (1.5 * len(titles) + 0.6, 1.5 * len(rows) + 0.2), fontsize=9)
    for axes, (image, truth, one, consensus, share) in zip(grid, rows):
        show_picture(axes[0], image)
        for ax, ids in zip(axes[1:], (truth, one, consensus)):
            show_panoptic(ax, image, ids if ids is truth else matched_ids(ids, truth))
        shown = axes[-1].imshow(share, cmap="cividis", vmin=0, vmax=1)
        axes[-1].set_axis_off()
    figure.colorbar(shown, ax=list(grid[:, -1]), shrink=0.6, label="share of the samples that agree")
    return figure


@styled
def reliability_curve(table: pd.DataFrame) -> Figure:
    """The share of correct pixels, and of all pixels, by the number of samples that agree.

    Args:
        table: as `tables.agreement_levels` makes it.
    """
    figure, (ax,) = panels(1, (4.5, 2.8))
    ax.bar(table["samples that agree"], table["pixels"].astype(float), color="0.8", label="of all pixels")
    curve(ax, table["samples that agree"], table["correct"], label="of these, correct", markersize=6)
    ax.set(xlabel="samples that agree", ylabel="%", ylim=(0, 105))
    ax.legend()
    return figure
