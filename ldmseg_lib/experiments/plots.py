"""Figures: one style, one colour for a segment across a row of pictures, files without dates, a live loss plot.

Figures are made without pyplot, so nothing stays behind; `show` displays one in a notebook.
"""

import io
import json
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from cycler import cycler
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ..core.files import replacing
from ..pipeline.segment_colors import PALETTE, VOID, IdMap, matched_ids, ranked_ids, segment_color

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.prop_cycle": cycler(color=PALETTE),
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 160,
    "pdf.fonttype": 42,
    "svg.hashsalt": "ldmseg",
}

styled = matplotlib.rc_context(STYLE)
"""Decorator of functions that draw: in our style."""

Picture = UInt8[np.ndarray, "height width 3"] | Float[np.ndarray, "height width 3"]
DepthMap = Float[np.ndarray, "height width"]


def panels(count: int, size: tuple[float, float], **options: Any) -> tuple[Figure, Sequence[Axes]]:
    """A figure of `size` inches with `count` axes side by side; `options` are those of `Figure.subplots`."""
    figure = Figure(figsize=size)
    return figure, list(figure.subplots(1, count, squeeze=False, **options)[0])


def log_axis(axis: Axis) -> None:
    """A logarithmic axis whose ticks are plain numbers: 0.2 and not 2 x 10^-1."""
    (axis.axes.set_xscale if axis is axis.axes.xaxis else axis.axes.set_yscale)("log")
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=7))


def curve(ax: Axes, x: Iterable[Any], y: Iterable[Any], **options: Any) -> None:
    """Draw a line with markers; None is a gap."""
    style: dict[str, Any] = {"marker": "o", "markersize": 3} | options
    ax.plot(np.array(x, float), np.array(y, float), **style)


def annotate_points(ax: Axes, x: Iterable[Any], y: Iterable[Any], texts: Iterable[Any]) -> None:
    """Write a small text beside each point, such as its number of steps."""
    for text, a, b in zip(texts, x, y):
        ax.annotate(str(text), (a, b), xytext=(2, 3), textcoords="offset points", fontsize=6)


def picture_grid(
    rows: int, titles: Iterable[str], size: tuple[float, float], *, fontsize: float | None = None, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure of `size` inches with a grid of axes [rows, columns], whose columns have titles."""
    titles = list(titles)
    figure = Figure(figsize=size)
    axes = figure.subplots(rows, len(titles), squeeze=False, **options)
    for ax, title in zip(axes[0], titles):
        ax.set_title(title, fontsize=fontsize)
    return figure, axes


def show_picture(ax: Axes, image: Picture) -> None:
    """Draw an image (uint8, or float in [0, 1]) without axes; small ones keep their pixels sharp."""
    ax.imshow(_rgb(image), interpolation="nearest")
    ax.set_axis_off()


def show_panoptic(
    ax: Axes, image: Picture, ids: IdMap, *, alpha: float = 0.6, labels: Mapping[int, str] | None = None
) -> None:
    """Draw segments over an image: a colour for each id, a light outline, void as the bare image.

    Args:
        ax: where.
        image: of the same size as `ids`.
        ids: segment ids, 0 for void.
        alpha: share of the colour; at 1 the image is hidden and void is grey.
        labels: text for segment ids, written at their centres.
    """
    names, inverse = np.unique(ids, return_inverse=True)
    colors = np.array([segment_color(int(i)) for i in names])
    share = np.where(ids[..., None] == 0, math.floor(alpha), alpha)
    mixed = (1 - share) * _rgb(image) + share * colors[inverse.reshape(ids.shape)]
    # outlines are one pixel wide, so small maps are enlarged first
    factor = max(1, math.ceil(256 / max(ids.shape)))
    mixed, large = (np.repeat(np.repeat(a, factor, 0), factor, 1) for a in (mixed, ids))
    edge = np.zeros(large.shape, dtype=bool)
    edge[:, 1:] |= large[:, 1:] != large[:, :-1]
    edge[1:] |= large[1:] != large[:-1]
    mixed[edge] = 0.97
    ax.imshow(mixed.clip(0, 1), interpolation="nearest", extent=(-0.5, ids.shape[1] - 0.5, ids.shape[0] - 0.5, -0.5))
    for segment_id, text in (labels or {}).items():
        rows, columns = np.nonzero(ids == segment_id)
        if len(rows):
            # the pixel nearest to the centre lies inside the segment, the centre itself need not
            nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
            box = {"boxstyle": "round,pad=0.15", "facecolor": "black", "alpha": 0.6, "linewidth": 0}
            ax.text(
                columns[nearest], rows[nearest], text, fontsize=6, color="white", ha="center", va="center", bbox=box
            )
    ax.set_axis_off()


def show_depth(ax: Axes, depth: DepthMap) -> None:
    """Draw inverse depth, near bright and infinitely far (0) dark; unknown (NaN) in grey."""
    near = np.nanmax(depth, initial=0.0, where=np.isfinite(depth))
    map_ = matplotlib.colormaps["viridis"].with_extremes(bad=VOID)
    ax.imshow(np.ma.masked_invalid(depth), cmap=map_, vmin=0.0, vmax=near or 1.0, interpolation="nearest")
    ax.set_axis_off()


@styled
def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    *,
    labels: Sequence[Sequence[Mapping[int, str] | None]] | None = None,
    alpha: float = 0.6,
    side: float = 1.5,
) -> Figure:
    """A grid of pictures, one scene a row: the image, then id maps over it; as in Figures S2 to S4.

    Args:
        rows: each (image, id map, id map, …). Within a row a segment keeps its colour: the first id map sets the
            colours by area, the others are matched to it. A map of floats is taken as inverse depth.
        titles: of the columns.
        labels: as the id maps of `rows`: text for the segment ids of each, or None.
        alpha: share of the colour.
        side: width of a picture, in inches; a row is as high as its image.
    """
    heights = [row[0].shape[0] / row[0].shape[1] for row in rows]
    figure, axes = picture_grid(
        len(rows), titles, (side * len(titles), side * sum(heights) + 0.25), height_ratios=heights
    )
    for number, (line, row) in enumerate(zip(axes, rows, strict=True)):
        image, *maps = row
        show_picture(line[0], image)
        reference = None
        for column, (ax, values) in enumerate(zip(line[1:], maps, strict=True)):
            if np.issubdtype(values.dtype, np.floating):
                show_depth(ax, values)
                continue
            shown = ranked_ids(values) if reference is None else matched_ids(values, reference)
            reference = shown if reference is None else reference
            texts = (labels[number][column] if labels else None) or {}
            renamed = {int(shown[values == old][0]): text for old, text in texts.items() if (values == old).any()}
            show_panoptic(ax, image, shown, alpha=alpha, labels=renamed)
    return figure


@styled
def loss_curve(metrics: str | Path | Sequence[Mapping[str, Any]], *, values: Sequence[str] = ("loss",)) -> Figure:
    """Training curves over steps, as logged (faint) and smoothed over a twentieth of the steps.

    Args:
        metrics: a metrics.jsonl, or its lines as mappings with "step" and `values`.
        values: which to draw.
    """
    lines = read_metrics(metrics) if isinstance(metrics, str | Path) else metrics
    figure, (ax,) = panels(1, (5, 2.6))
    for color, name in zip(PALETTE, values):
        points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
        steps, heights = np.array(points, dtype=float).reshape(-1, 2).T
        ax.plot(steps, heights, color=color, alpha=0.3, linewidth=0.8)
        ax.plot(steps, _smooth(heights, max(1, len(heights) // 20)), color=color, label=name)
        if len(heights) and heights.min() > 0:
            ax.set_yscale("log")
    ax.set(xlabel="step", ylabel=values[0] if len(values) == 1 else "")
    if len(values) > 1:
        ax.legend()
    return figure


@styled
def segment_statistics(statistics: Mapping[str, Any]) -> Figure:
    """Segments per image, their sizes and their classes, from what `data.statistics.split_statistics` counted."""
    counts, shares = np.array(statistics["segments_per_image"]), np.array(statistics["area_shares"])
    classes = sorted(statistics["classes"].items(), key=lambda pair: pair[1])[-20:]
    figure, (left, middle, right) = panels(3, (8, max(2.4, 0.8 + 0.16 * len(classes))))
    left.hist(counts, bins=list(np.arange(counts.min(initial=0), counts.max(initial=1) + 2) - 0.5))
    left.set(xlabel="segments in an image", ylabel="images")
    middle.hist(100 * shares, bins=list(np.geomspace(max(1e-2, 100 * shares.min(initial=1.0)), 100, 30)))
    middle.set(xlabel="area of a segment, % of the image", ylabel="segments")
    log_axis(middle.xaxis)
    right.barh([name for name, _ in classes], [count for _, count in classes])
    right.set(xlabel="segments" if len(classes) < 20 else "segments (20 most frequent classes)")
    return figure


@styled
def inpainting_curves(conditions: Sequence[Mapping[str, Any]]) -> Figure:
    """PQ in percent against drop rate, from what `evaluation.inpainting.evaluate_inpainting` returned.

    A column for each block size; whole images above, the unknown region alone below; a line for each method.
    """
    blocks = sorted({(c["block"], c["pixels"]) for c in conditions})
    figure = Figure(figsize=(0.6 + 2.0 * len(blocks), 4.4))
    axes = figure.subplots(2, len(blocks), sharex=True, sharey=True, squeeze=False)
    for column, (block, pixels) in zip(axes.T, blocks):
        chosen = sorted((c for c in conditions if c["block"] == block), key=lambda c: c["rate"])
        rates = [100 * c["rate"] for c in chosen]
        for ax, region in zip(column, ("whole", "hidden")):
            for marker, method in zip("osd", chosen[0]["scores"]):
                heights = 100 * np.array([c["scores"][method][region]["pq"] for c in chosen], float)
                curve(ax, rates, heights, marker=marker, label=method)
        column[0].set(title=f"blocks of {block} cell{'s' * (block > 1)}, {pixels} px", ylim=(0, 100))
        column[1].set(xlabel="dropped, %")
    axes[0, 0].set(ylabel="PQ, whole image")
    axes[1, 0].set(ylabel="PQ, hidden region alone")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a half-written last line is left out."""
    lines = []
    for line in Path(path).read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


class LossPlot:
    """A loss plot in a notebook, updated in place while a training runs; give it to the loop as `on_log`.

    Outside notebooks it does nothing.

    Args:
        history: metrics.jsonl of a resumed training, to include its earlier steps.
        values: which of the logged values to draw.
        every: minimum number of seconds between two updates, each of which pauses the training for a fraction of one.
    """

    def __init__(
        self, history: str | Path | None = None, *, values: Sequence[str] = ("loss",), every: float = 15.0
    ) -> None:
        self.values, self.every = tuple(values), every
        self._lines = read_metrics(history) if history is not None and Path(history).exists() else []
        self._drawn = -math.inf
        self._handle: Any = None

    def __call__(self, entry: Mapping[str, Any]) -> None:
        """Add a logged line ("step" and values) and draw when it is time."""
        if not _in_notebook():
            return
        self._lines = (
            [line for line in self._lines if line["step"] < entry["step"]] if self._handle is None else self._lines
        )
        self._lines.append(dict(entry))
        if time.monotonic() - self._drawn >= self.every:
            self.draw()

    def draw(self) -> None:
        """Draw now; for the end of a training, whose last lines may not have been drawn yet."""
        if not self._lines or not _in_notebook():
            return
        from IPython.display import Image, display

        picture = Image(data=_png(loss_curve(self._lines, values=self.values), dpi=90))
        if self._handle is None:
            self._handle = display(picture, display_id=True)
        else:
            self._handle.update(picture)
        self._drawn = time.monotonic()


def show(figure: Figure) -> None:
    """Display a figure in the notebook; elsewhere do nothing."""
    if _in_notebook():
        from IPython.display import Image, display

        display(Image(data=_png(figure, dpi=110)))


def save_figure(figure: Figure, folder: str | Path, name: str) -> list[Path]:
    """Write <folder>/<name>.png and .pdf, equal bytes for equal figures. Returns the two paths."""
    written = []
    for suffix, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None, "Creator": None})):
        written.append(Path(folder) / f"{name}.{suffix}")
        with replacing(written[-1]) as temporary, matplotlib.rc_context(STYLE):
            figure.savefig(temporary, metadata=metadata)
    return written


@styled
def _png(figure: Figure, *, dpi: int) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def _rgb(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float64) / (255.0 if image.dtype == np.uint8 else 1.0)


def _smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Running mean over the last `width` values, over fewer at the beginning."""
    return pd.Series(values).rolling(width, min_periods=1).mean().to_numpy()


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")
