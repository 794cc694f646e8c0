"""What a reader of a figure needs: all points inside their axes, labelled axes, texts apart, readable ticks."""

import itertools
import re

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def problems(figure: Figure) -> list[str]:
    """What hinders the reading of a figure of curves, in words; an empty list is a readable figure."""
    found = []
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    for ax in figure.axes:
        name = ax.get_title() or ax.get_ylabel() or "axes"
        shared_y = len(ax.get_shared_y_axes().get_siblings(ax)) > 1
        if not ax.axison:
            continue
        (left, right), (bottom, top) = sorted(ax.get_xlim()), sorted(ax.get_ylim())
        for line in ax.lines:
            if line.get_transform() != ax.transData:
                continue  # a guide across the axes
            points = np.asarray(line.get_xydata(), float)
            points = points[np.isfinite(points).all(1)]
            inside = (points >= [left, bottom]) & (points <= [right, top])
            if not inside.all():
                found.append(f"{name}: {int((~inside.all(1)).sum())} points of {line.get_label()!r} lie outside")
        if not (ax.get_xlabel() or len(ax.get_shared_x_axes().get_siblings(ax)) > 1):
            found.append(f"{name}: the x axis has no label")
        if not (ax.get_ylabel() or shared_y):
            found.append(f"{name}: the y axis has no label")
        for tick in (*ax.get_xticklabels(which="both"), *ax.get_yticklabels(which="both")):
            if re.search(r"times|cdot", tick.get_text()) and tick.get_visible():
                found.append(f"{name}: tick {tick.get_text()!r}")
        texts = [(text, text.get_window_extent(renderer)) for text in ax.texts if text.get_text()]
        for (one, box), (other, second) in itertools.combinations(texts, 2):
            if box.overlaps(second):
                found.append(f"{name}: {one.get_text()!r} lies on {other.get_text()!r}")
        legend = ax.get_legend()
        if legend is not None:
            frame = legend.get_window_extent(renderer)
            for line in ax.lines:
                drawn = ax.transData.transform(line.get_xydata())
                if line.get_transform() == ax.transData and any(frame.contains(*point) for point in drawn):
                    found.append(f"{name}: the legend covers points of {line.get_label()!r}")
    return found
