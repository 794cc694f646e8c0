"""One run of the model under the editor: what it is given, how it reports and how it is stopped."""

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from ..core.errors import InputError
from ..core.randomness import torch_generator

MAX_STEPS, MAX_CANDIDATES = 1000, 16


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
        limits = {"steps": (1, MAX_STEPS), "candidates": (1, MAX_CANDIDATES), "seed": (0, 2**53 - 1)}
        for key, (low, high) in limits.items():
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
                raise InputError(f"{key} must be a whole number from {low} to {high}, not {value!r}")
            object.__setattr__(self, key, int(value))

    def as_dict(self) -> dict[str, Any]:
        """The settings by name, as JSON can hold them."""
        return asdict(self)


@dataclass(frozen=True)
class Candidate:
    """One proposal of the model: int32 ids [height, width] and its segments (None when the model says nothing)."""

    ids: Int[np.ndarray, "height width"]
    segments: tuple[dict[str, Any], ...] | None


class InpaintJob:
    """Inpaint `region` of `ids` once. The ids under the region are erased before the model sees them."""

    def __init__(
        self,
        pipeline: Any,
        ids: Int[np.ndarray, "height width"],
        region: Bool[np.ndarray, "height width"],
        settings: InpaintSettings,
        *,
        on_step: Callable[[int, int], None],
    ) -> None:
        self.ids = ids
        self._pipeline, self._region, self._settings = pipeline, region, settings
        self._on_step = on_step
        self._stop = threading.Event()

    def cancel(self) -> None:
        """Ask for an end before the next denoising step."""
        self._stop.set()

    def _step(self, step: int, total: int) -> None:
        if self._stop.is_set():
            raise Cancelled
        self._on_step(step, total)

    def run(self, encode: Callable[[], Any]) -> list[Candidate]:
        """The candidates; candidate k depends on the seed and on k, not on how many there are.

        Raises:
            Cancelled: `cancel` was called.
        """
        features = encode()
        if self._stop.is_set():
            raise Cancelled
        settings = self._settings
        output = self._pipeline.inpaint(
            features,
            np.where(self._region, 0, self.ids),
            ~self._region,
            num_inference_steps=settings.steps,
            num_candidates=settings.candidates,
            generator=[torch_generator("mask_editor", settings.seed, k) for k in range(settings.candidates)],
            sampler=settings.sampler,
            callback=self._step,
        )
        segments = getattr(output, "segments", None) or [None] * len(output.ids)
        return [Candidate(self._merge(ids), _plain(entry)) for ids, entry in zip(output.ids, segments)]

    def _merge(self, ids: Any) -> Int[np.ndarray, "height width"]:
        ids = np.asarray(ids)
        if ids.shape != self.ids.shape:
            raise InputError(f"the model answered with ids of shape {ids.shape}, not {self.ids.shape}")
        return np.where(self._region, ids, self.ids).astype(np.int32)


def _plain(segments: Any) -> tuple[dict[str, Any], ...] | None:
    """Segments with Python's own numbers, which JSON can hold."""
    if segments is None:
        return None
    return tuple({k: v.item() if isinstance(v, np.generic) else v for k, v in s.items()} for s in segments)
