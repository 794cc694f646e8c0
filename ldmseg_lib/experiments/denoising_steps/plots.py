"""Figures of notebook 06: quality against steps and latency, and what changes from step to step."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ...pipeline.segment_colors import PALETTE
from ..plots import annotate_points, curve, log_axis, panels, styled
from ..supplement import supplement

_NAMES = {"ddim": "DDIM", "ddpm": "DDPM", "dpmsolver++": "DPM-Solver++", "unipc": "UniPC"}
# a panel of the trajectory's figure each: label by name of the share
_TRAJECTORY = {
    "segments": {"grouped": "merged", "found_small": "recall, small", "found_large": "recall, large"},
    "pixels": {"wrong": "wrong", "changed": "changed in this step"},
    "errors": {"kept": "retained in this step", "lasting": "persistent", "spoiled": "correct, wrong at the end"},
}


@styled
def steps_curves(table: pd.DataFrame) -> Figure:
    """Quality in percent against the number of denoising steps: this run's (solid) and the paper's (dashed).

    Args:
        table: Table S2, as `tables.table_s2` makes it.
    """
    figure, axes = panels(3, (7.5, 2.8), sharex=True, sharey=True)
    for ax, name in zip(axes, ("class-agn. PQ", "mIoU", "PQ")):
        curve(ax, table["# iters"], table[name], label="this run")
        theirs = {"linestyle": "--", "color": PALETTE[1], "marker": "s"}
        curve(ax, table["# iters"], table[f"paper {name}"], label="paper, COCO", **theirs)
        ax.set(title=name, xlabel="denoising steps")
        log_axis(ax.xaxis)
    axes[0].set(ylabel="%", ylim=(0, None))  # once all curves are there: setting a limit ends autoscaling
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@styled
def sampler_frontier(table: pd.DataFrame) -> Figure:
    """PQ against latency per image, a line for each sampler, those of the first labelled with their number of steps.

    Args:
        table: as `tables.sampler_frontier` makes it.
    """
    figure, axes = panels(2, (7.5, 3.2), sharex=True)
    for ax, name in zip(axes, ("class-agn. PQ", "PQ")):
        samplers = list(table.groupby("sampler", sort=False))
        for marker, (sampler, rows) in zip("osd^v", samplers):
            label = _NAMES.get(str(sampler), str(sampler))
            curve(ax, rows["time [s]"], rows[name], marker=marker, markersize=4, label=label)
        rows = samplers[0][1]
        annotate_points(ax, rows["time [s]"], rows[name], rows["# iters"])
        ax.set(title=name, xlabel="latency per image, s", ylabel="%")
        log_axis(ax.xaxis)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


@styled
def trajectory_curves(steps: Sequence[Mapping[str, Any]]) -> Figure:
    """Shares in percent after each step of one sampling.

    Args:
        steps: the entry "steps" of `TrajectoryStatistics.compute`.
    """
    figure, axes = panels(3, (8, 2.9))
    for ax, (title, lines) in zip(axes, _TRAJECTORY.items()):
        for name, label in lines.items():
            points = [(row["step"], 100 * row[name]) for row in steps if row[name] is not None]
            if points:
                ax.plot(*zip(*points), label=label)
        ax.set(title=title, xlabel="denoising step", ylabel="%", ylim=(0, None))
        log_axis(ax.xaxis)
        ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(0, -0.25))
    return figure


@styled
def time_lines(table: pd.DataFrame) -> Figure:
    """Latency per image against the number of denoising steps: this run's by part, and the total beside the paper's.

    Args:
        table: as `tables.inference_time` makes it.
    """
    paper = supplement("table_s2")
    parts = ["encode", "decode", "postprocess", "denoise"]
    figure, (left, right) = panels(2, (7.5, 2.8))
    for part in parts:
        curve(left, table["# iters"], table[part], label=part)
    left.set(title="this run, by part")
    left.legend(loc="upper left", bbox_to_anchor=(0, -0.25), ncols=2)
    curve(right, table["# iters"], table["total"], label="this run")
    curve(right, paper["iters"], paper["seconds"], linestyle="--", marker="s", label="paper, RTX 4090")
    right.set(title="total")
    right.legend(loc="upper left", bbox_to_anchor=(0, -0.25))
    for ax in (left, right):
        ax.set(xlabel="denoising steps", ylabel="latency per image, s")
        log_axis(ax.xaxis)
        log_axis(ax.yaxis)
    return figure
