"""Seconds as a line in the number of denoising steps: the paper's Table S2 and our own measurements alike."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...core.errors import InputError


@dataclass(frozen=True)
class LinearFit:
    """seconds = fixed + per_step x denoising steps."""

    fixed: float
    per_step: float


def fit_line(steps: Sequence[int], seconds: Sequence[float]) -> LinearFit:
    """The least-squares line through seconds at numbers of steps.

    Raises:
        InputError: fewer than two different numbers of steps.
    """
    if len(set(steps)) < 2:
        raise InputError(f"a line needs at least two numbers of steps, not {sorted(set(steps))}")
    per_step, fixed = np.polyfit(np.asarray(steps, float), np.asarray(seconds, float), 1)
    return LinearFit(float(fixed), float(per_step))
