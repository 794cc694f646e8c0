"""One call of the model by the editor: its settings, its input and its proposals."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from ..core.errors import InputError
from ..core.randomness import torch_generator


class Cancelled(Exception):
    """Raised in the model's step callback to stop it."""


@dataclass(frozen=True)
class InpaintSettings:
    """`steps` of denoising (1 to 1000), `candidates` in one batch (1 to 16), `seed`, `sampler` (None: the model's)."""

    steps: int = 20
    candidates: int = 1
    seed: int = 0
    sampler: str | None = None

    def __post_init__(self) -> None:
        for key, low, high in (("steps", 1, 1000), ("candidates", 1, 16), ("seed", 0, 2**53 - 1)):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
                raise InputError(f"{key} must be a whole number from {low} to {high}, not {value!r}")
            object.__setattr__(self, key, int(value))


class Candidate(NamedTuple):
    """One proposal of the model: int32 ids [height, width] and its segments (None when the model says nothing)."""

    ids: Int[np.ndarray, "height width"]
    segments: tuple[dict[str, Any], ...] | None


def inpaint(
    pipeline: Any,
    features: Any,
    ids: Int[np.ndarray, "height width"],
    region: Bool[np.ndarray, "height width"],
    settings: InpaintSettings,
    callback: Callable[[int, int], None],
) -> list[Candidate]:
    """Inpaint `region`, whose ids the model never sees; candidate k depends on the seed and on k, not on their number.

    Args:
        pipeline: has `inpaint` as LDMSegPipeline does.
        features: the encoded image.
        ids: segment ids, 0 for void.
        region: true where the model fills in.
        settings: of the sampling.
        callback: called with the step and the number of steps before each; what it raises stops the model.
    """
    output = pipeline.inpaint(
        features,
        np.where(region, 0, ids),
        ~region,
        num_inference_steps=settings.steps,
        num_candidates=settings.candidates,
        generator=[torch_generator("mask_editor", settings.seed, k) for k in range(settings.candidates)],
        sampler=settings.sampler,
        callback=callback,
    )
    candidates = []
    for filled, segments in zip(output.ids, getattr(output, "segments", None) or [None] * len(output.ids)):
        filled = np.asarray(filled)
        if filled.shape != ids.shape:
            raise InputError(f"the model answered with ids of shape {filled.shape}, not {ids.shape}")
        candidates.append(Candidate(np.where(region, filled, ids).astype(np.int32), segments and _plain(segments)))
    return candidates


def _plain(segments: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Segments with Python's own numbers, which JSON can hold."""
    return tuple({k: v.item() if isinstance(v, np.generic) else v for k, v in s.items()} for s in segments)
