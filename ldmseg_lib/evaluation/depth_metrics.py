"""Depth metrics up to scale and shift, as Marigold (Ke et al., CVPR 2024) reports them: AbsRel and delta1.

Targets are inverse depth of unknown scale (MiDaS's, or a renderer's), so the alignment is done where they live, in
inverse depth, and the errors are measured in depth:

    s, b = argmin sum over known pixels of (s * predicted + b - target)^2      per image, in inverse depth
    depth = 1 / (s * predicted + b), clipped to the range of depths
    AbsRel = mean |depth - true depth| / true depth
    delta1 = share of pixels with max(depth / true depth, true depth / depth) < 1.25

Pixels whose target is NaN (unknown) or 0 (infinitely far) count neither in the alignment nor in the errors. Each image
weighs the same in the mean over a data set.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from ..core.errors import InputError
from .streaming import StreamingMetric

DELTA1_RATIO = 1.25


def align_scale_and_shift(
    predicted: Float[np.ndarray, " pixels"], target: Float[np.ndarray, " pixels"]
) -> tuple[float, float]:
    """Scale and shift that bring `predicted` closest to `target` in the sense of least squares.

    A constant prediction gets scale 0 and the mean of the target.
    """
    predicted, target = predicted.astype(np.float64), target.astype(np.float64)
    centred = predicted - predicted.mean()
    variance = float(centred @ centred)
    # below this the prediction is one constant up to rounding, and its ripples carry no depth
    floor = len(predicted) * (np.finfo(np.float32).eps * float(np.abs(predicted).max(initial=0.0))) ** 2
    scale = float(centred @ target) / variance if variance > floor else 0.0
    return scale, float(target.mean()) - scale * float(predicted.mean())


def depth_errors(
    predicted: Float[np.ndarray, "height width"],
    target: Float[np.ndarray, "height width"],
    *,
    depth_range: tuple[float, float] | None = None,
) -> dict[str, float] | None:
    """`abs_rel` (0 is best) and `delta1` (1 is best) of one image after alignment.

    Args:
        predicted: inverse depth of any scale and shift, finite.
        target: inverse depth; NaN is unknown and 0 infinitely far.
        depth_range: nearest and farthest depth that the aligned prediction is clipped to, in units of 1 / target; None
            is the image's own range of known depths.

    Returns:
        None if fewer than two pixels have a finite known depth.

    Raises:
        InputError: shapes differ, a prediction is not finite, a target is negative, or the range is empty.
    """
    known = _known(predicted, target)
    if np.count_nonzero(known) < 2:
        return None
    inverse = np.asarray(target)[known].astype(np.float64)
    scale, shift = align_scale_and_shift(np.asarray(predicted)[known], inverse)
    return _errors(scale * np.asarray(predicted)[known].astype(np.float64) + shift, inverse, depth_range)


def constant_depth_errors(
    target: Float[np.ndarray, "height width"], *, depth_range: tuple[float, float] | None = None
) -> dict[str, float] | None:
    """`depth_errors` of a prediction that says nothing: the same inverse depth everywhere.

    What a model must beat; the alignment gives it the mean inverse depth of the image.
    """
    return depth_errors(np.zeros_like(target), target, depth_range=depth_range)


class DepthMetrics(StreamingMetric):
    """Streaming means over images of `depth_errors` and of the constant prediction's errors.

    Args:
        depth_range: as in `depth_errors`.

    Example:
        >>> import numpy as np
        >>> from ldmseg_lib.evaluation import DepthMetrics
        >>> target = np.linspace(0.1, 1, 64).reshape(8, 8)  # inverse depth
        >>> metric = DepthMetrics()
        >>> metric.update(2 * target - 1, target)  # equal up to scale and shift
        >>> result = metric.compute()
        >>> round(result["abs_rel"], 3), result["delta1"], result["n"]
        (0.0, 1.0, 1)
    """

    settings = ("depth_range",)
    sums = ("images", "skipped")

    def __init__(self, depth_range: tuple[float, float] | None = None) -> None:
        if depth_range is not None and not 0 < depth_range[0] < depth_range[1]:
            raise InputError(f"depth_range={depth_range}; give the nearest and the farthest depth, both positive")
        self.depth_range = None if depth_range is None else (depth_range[0], depth_range[1])
        self.images: list[list[float]] = []
        self.skipped = 0

    def update(self, predicted: Float[np.ndarray, "height width"], target: Float[np.ndarray, "height width"]) -> None:
        """Add one image, both as inverse depth; one with fewer than two known finite depths is skipped and counted.

        Raises:
            InputError: as in `depth_errors`; nothing is added then.
        """
        errors = depth_errors(predicted, target, depth_range=self.depth_range)
        if errors is None:
            self.skipped += 1
            return
        constant = constant_depth_errors(target, depth_range=self.depth_range)
        assert constant is not None
        self.images.append([errors["abs_rel"], errors["delta1"], constant["abs_rel"], constant["delta1"]])

    def compute(self) -> dict[str, Any]:
        """`abs_rel`, `delta1`, the same of the constant prediction under `constant`, `n` images and `skipped` ones.

        With no image the values are None.
        """
        # exact sums, so that the order of images and processes changes no bit
        means: list[float | None] = [None] * 4
        if self.images:
            means = [math.fsum(values) / len(self.images) for values in zip(*self.images, strict=True)]
        return {
            "abs_rel": means[0],
            "delta1": means[1],
            "constant": {"abs_rel": means[2], "delta1": means[3]},
            "n": len(self.images),
            "skipped": self.skipped,
        }


def _known(predicted: np.ndarray, target: np.ndarray) -> Bool[np.ndarray, "height width"]:
    predicted, target = np.asarray(predicted), np.asarray(target)
    if predicted.shape != target.shape:
        raise InputError(f"the prediction has shape {predicted.shape} and the target {target.shape}; give equal ones")
    if (target < 0).any():
        raise InputError(f"the target has inverse depth {np.nanmin(target)}; it lies at 0 (infinitely far) or above")
    known = np.isfinite(target) & (target > 0)
    if not np.isfinite(predicted[known]).all():
        raise InputError("the prediction is not finite where the depth is known")
    return known


def _errors(
    aligned: Float[np.ndarray, " pixels"],
    target: Float[np.ndarray, " pixels"],
    depth_range: tuple[float, float] | None,
) -> dict[str, float]:
    nearest, farthest = depth_range or (1 / target.max(), 1 / target.min())
    depth = 1 / np.clip(aligned, 1 / farthest, 1 / nearest)
    true_depth = 1 / target
    ratio = np.maximum(depth / true_depth, true_depth / depth)
    return {
        "abs_rel": float(np.mean(np.abs(depth - true_depth) / true_depth)),
        "delta1": float(np.mean(ratio < DELTA1_RATIO)),
    }
