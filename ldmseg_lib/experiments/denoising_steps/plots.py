"""Figures of notebook 06: quality against steps and seconds, and what changes from step to step."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from ...pipeline.segment_colors import PALETTE
from ..plots import STYLE
from ..supplement import supplement

_NAMES = {"ddim": "DDIM", "ddpm": "DDPM", "dpmsolver++": "DPM-Solver++", "unipc": "UniPC"}


def steps_curves(table: pd.DataFrame) -> Figure:
    """Quality in percent against the number of denoising steps: this run's (solid) and the paper's (dashed).

    Args:
        table: Table S2, as `step_tables.table_s2` makes it.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 2.8))
        axes = figure.subplots(1, 3, sharex=True, sharey=True)
        for ax, name in zip(axes, ("class-agn. PQ", "mIoU", "PQ")):
            ax.plot(table["# iters"], table[name].astype(float), marker="o", markersize=3, label="this run")
            theirs = table[f"paper {name}"].astype(float)
            ax.plot(table["# iters"], theirs, "--", color=PALETTE[1], marker="s", markersize=3, label="paper, COCO")
            ax.set(title=name, xscale="log", xlabel="denoising steps", ylim=(0, None))
        axes[0].set(ylabel="%")
        axes[-1].legend()
    return figure


def sampler_frontier(table: pd.DataFrame) -> Figure:
    """PQ against seconds of an image, a line for each sampler, its points labelled with their number of steps.

    Args:
        table: as `step_tables.sampler_frontier` makes it.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 3.2))
        axes = figure.subplots(1, 2, sharex=True)
        for ax, name in zip(axes, ("class-agn. PQ", "PQ")):
            for marker, (sampler, rows) in zip("osd^v", table.groupby("sampler", sort=False)):
                seconds, heights = rows["time [s]"].astype(float), rows[name].astype(float)
                ax.plot(seconds, heights, marker=marker, markersize=4, label=_NAMES.get(str(sampler), str(sampler)))
                for steps, x, y in zip(rows["# iters"], seconds, heights):
                    ax.annotate(str(steps), (x, y), xytext=(2, 3), textcoords="offset points", fontsize=6)
            ax.set(title=name, xscale="log", xlabel="seconds of an image", ylabel="%")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def trajectory_curves(steps: Sequence[Mapping[str, Any]]) -> Figure:
    """Shares in percent after each step of one sampling.

    Args:
        steps: the entry "steps" of `evaluation.trajectory.TrajectoryStatistics.compute`.
    """
    panels = {
        "segments": {"grouped": "cover two true ones", "found_small": "small, found", "found_large": "large, found"},
        "pixels": {"wrong": "wrong", "changed": "changed in this step"},
        "errors": {"kept": "kept in this step", "lasting": "wrong at the end", "spoiled": "right, wrong at the end"},
    }
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 2.9))
        for ax, (title, lines) in zip(figure.subplots(1, 3), panels.items()):
            for name, label in lines.items():
                points = [(row["step"], 100 * row[name]) for row in steps if row[name] is not None]
                ax.plot(*zip(*points), label=label) if points else None
            ax.set(title=title, xscale="log", xlabel="denoising step", ylabel="%", ylim=(0, None))
            ax.legend(fontsize=7)
    return figure


def time_lines(table: pd.DataFrame) -> Figure:
    """Seconds of an image against the number of denoising steps, ours by parts (stacked) and the paper's total.

    Args:
        table: as `step_tables.inference_time` makes it.
    """
    paper = supplement("table_s2")
    parts = ["encode", "decode", "postprocess", "denoise"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 2.8))
        left, right = figure.subplots(1, 2)
        left.stackplot(table["# iters"], [table[part].astype(float) for part in parts], labels=parts, alpha=0.8)
        left.set(title="this run", xlabel="denoising steps", ylabel="seconds of an image")
        left.legend(loc="upper left")
        right.plot(table["# iters"], table["total"].astype(float), marker="o", markersize=3, label="this run")
        right.plot(paper["iters"], paper["seconds"], "--", marker="s", markersize=3, label="paper, RTX 4090")
        right.set(title="total", xlabel="denoising steps", xscale="log", yscale="log")
        right.legend()
    return figure
