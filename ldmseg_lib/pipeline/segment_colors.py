"""Colours of segments: fixed by id, told apart with any colour vision, alike for one segment in several pictures."""

import matplotlib
import numpy as np
from jaxtyping import Integer

# Okabe and Ito's seven, then five of Paul Tol's muted scheme: told apart with any colour vision
PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00",
    "#F0E442", "#332288", "#882255", "#44AA99", "#999933", "#DDCC77",
)  # fmt: skip
VOID = "#DDDDDD"
IdMap = Integer[np.ndarray, "height width"]


def segment_color(segment_id: int) -> tuple[float, float, float]:
    """The colour of a segment id as (r, g, b) in [0, 1]; 0 is void, in grey.

    The first twelve ids take the palette; each further dozen takes it lighter or darker.
    """
    if segment_id == 0:
        return matplotlib.colors.to_rgb(VOID)
    round_, place = divmod(segment_id - 1, len(PALETTE))
    color = np.array(matplotlib.colors.to_rgb(PALETTE[place]))
    shade, strength = (1.0, 0.0) if round_ == 0 else (float(round_ % 2), 0.2 + 0.15 * ((round_ - 1) // 2 % 3))
    r, g, b = (color + (shade - color) * strength).tolist()
    return r, g, b


def matched_ids(ids: IdMap, reference: IdMap) -> IdMap:
    """`ids` renumbered so that each segment takes the id of the reference segment that it overlaps most by IoU.

    Pairs are taken greedily, one to one; what is left over gets ids above those of the reference. 0 stays 0. So two
    pictures of one scene can be coloured alike, although a sampled id map numbers its segments as it likes.
    """
    names, mine = np.unique(ids, return_inverse=True)
    others, theirs = np.unique(reference, return_inverse=True)
    overlap = np.bincount(mine.ravel() * len(others) + theirs.ravel(), minlength=len(names) * len(others))
    overlap = overlap.reshape(len(names), len(others)).astype(float)
    iou = overlap / (overlap.sum(1, keepdims=True) + overlap.sum(0) - overlap)
    iou[names == 0], iou[:, others == 0] = 0, 0
    new, taken = np.zeros(len(names), dtype=np.int64), set()
    for flat in np.argsort(-iou, axis=None, kind="stable"):
        row, column = divmod(int(flat), len(others))
        if iou[row, column] <= 0:
            break
        if new[row] == 0 and column not in taken:
            new[row] = others[column]
            taken.add(column)
    left = (new == 0) & (names != 0)
    new[left] = int(others.max(initial=0)) + 1 + np.arange(left.sum())
    return new[mine].reshape(ids.shape)


def ranked_ids(ids: IdMap) -> IdMap:
    """`ids` renumbered 1, 2, … by falling area; 0 stays 0."""
    names, inverse, counts = np.unique(ids, return_inverse=True, return_counts=True)
    counts[names == 0] = -1
    order = np.argsort(-counts, kind="stable")
    new = np.zeros(len(names), dtype=np.int64)
    new[order] = np.arange(1, len(names) + 1)
    new[names == 0] = 0
    return new[inverse].reshape(ids.shape)
