"""Figures of notebook 08: what one model says of an image, task by task."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import Int, UInt8
from matplotlib.figure import Figure

from ...pipeline.segment_colors import matched_ids, ranked_ids
from ..plots import STYLE, show_depth, show_panoptic, show_picture

_CLASS_COLORS = 24  # class k is drawn as this id + k: alike in every row, and darker than segments


def figure_s1(
    images: Sequence[UInt8[np.ndarray, "height width 3"]],
    maps: Sequence[Mapping[str, np.ndarray]],
    *,
    columns: Sequence[str] = ("instance", "semantic", "panoptic", "depth"),
    side: float = 1.5,
) -> Figure:
    """A scene a row: the image, then the map of each task, as in Figure S1.

    A segment has one colour in the instance and the panoptic map, a label the same colour in every row; depth is bright
    where it is near.

    Args:
        images: of the scenes.
        maps: by name, of each image: ids in "instance" and "panoptic", relative inverse depth in about [-1, 1] in
            "depth", labels from 1 in every other one.
        columns: names of the maps that are drawn.
        side: of a picture, in inches.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(side * (len(columns) + 1), side * len(images) + 0.25))
        axes = figure.subplots(len(images), len(columns) + 1, squeeze=False)
        for row, image, found in zip(axes, images, maps, strict=True):
            show_picture(row[0], image)
            reference: Int[np.ndarray, "height width"] | None = None
            for ax, name in zip(row[1:], columns, strict=True):
                values = found[name]
                if name == "depth":
                    show_depth(ax, (values.clip(-1, 1) + 1) / 2)
                    continue
                if name in ("instance", "panoptic"):
                    values = ranked_ids(values) if reference is None else matched_ids(values, reference)
                    reference = values if reference is None else reference
                else:
                    values = np.where(values > 0, values + _CLASS_COLORS, 0)
                show_panoptic(ax, image, values)
        for ax, title in zip(axes[0], ("image", *columns), strict=True):
            ax.set_title(title)
    return figure
