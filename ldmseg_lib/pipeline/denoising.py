"""The denoising half of the pipeline: all tasks of an image in one batch; images, tiles and samples in batches."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..core.errors import InputError
from ..diffusion.sampling import Constraint, branch, sample_latents
from ..diffusion.tasks import get_tasks
from .images import ImageFeatures, Picture, as_rgb
from .rounding import rounded
from .safetensors_pipeline import SafetensorsPipeline
from .tiling import place_tiles

OnEstimate = Callable[[int, dict[str, Tensor]], None]
ByTask = dict[str, Float[Tensor, "batch channels rows columns"]]
Job = tuple[int, int]
"""An image or tile, and the number of its sample."""


class DenoisingPipeline(SafetensorsPipeline):
    """From images to clean latents; `LDMSegPipeline` adds its parts and what becomes of the latents."""

    @torch.no_grad()
    def predict(
        self,
        features: ImageFeatures,
        *,
        num_inference_steps: int = 50,
        tasks: Sequence[str] = ("instance", "semantic"),
        generators: Sequence[torch.Generator],
        sampler: str | None = None,
        round_estimates: bool | None = None,
        constraint: Constraint | None = None,
        resamplings: int = 1,
        callback: Callable[[int, int], None] | None = None,
        on_estimate: OnEstimate | None = None,
    ) -> ByTask:
        """Clean latents of each task, all tasks of all images in one batch.

        Args:
            features: from `encode_image`.
            num_inference_steps: denoising steps.
            tasks: of those that the model knows.
            generators: one CPU generator an image; of each only its initial seed counts.
            sampler: instead of the pipeline's own.
            round_estimates: instead of the pipeline's own; tasks without a valid map to round to, such as depth, are
                left as they are.
            constraint: what holds a part of the latents in place (see `inpainting`).
            resamplings: how often each step is done (RePaint); 1 is the plain loop.
            callback: called before each step with (steps done, steps in all).
            on_estimate: called after each step with (step, estimates by task).

        Raises:
            InputError: an unknown task or sampler, no task, or not as many generators as images.
        """
        count = len(features)
        if isinstance(tasks, str) or not tasks:
            raise InputError(f"tasks is {tasks!r}; give a list of names, such as ['instance', 'semantic']")
        if len(generators) != count:
            raise InputError(f"{len(generators)} generators for {count} images; give one for each image")

        def by_task(latents: Tensor) -> ByTask:
            return dict(zip(tasks, latents.split(count), strict=True))

        def rounding(latents: Tensor) -> Tensor:
            return torch.cat([self._rounded(task, values) for task, values in by_task(latents).items()])

        wanted = self.config.round_estimates if round_estimates is None else round_estimates
        latents = sample_latents(
            self.denoiser,
            features.latents.repeat(len(tasks), 1, 1, 1),
            self.denoiser.task_ids(tasks).repeat_interleave(count),
            [g for task in tasks for g in branch(generators, task)],
            num_inference_steps=num_inference_steps,
            prediction_type=self.config.prediction_type,
            affinity=features.affinity,
            sampler=sampler or self.config.sampler,
            rounding=rounding if wanted else None,
            constraint=constraint,
            resamplings=resamplings,
            callback=callback,
            on_estimate=None if on_estimate is None else lambda step, z: on_estimate(step, by_task(z)),
        )
        return by_task(latents)

    def _rounded(self, task: str, latents: Tensor) -> Tensor:
        """`latents` rounded, where they are of id maps; a map of values has no nearest valid one."""
        if get_tasks([task])[0].autoencoder != "mask":
            return latents
        classes = min(len(self.config.categories), self.num_ids - 1)
        labels = classes if task == "semantic" and classes else self.num_ids - 1
        return rounded(self.autoencoder, latents, labels=labels)

    def sample(
        self,
        images: Sequence[Picture],
        *,
        generators: Sequence[torch.Generator],
        tile_size: int | None = None,
        num_samples: int = 1,
        batch_size: int = 16,
        tasks: Sequence[str] = ("instance", "semantic"),
        **settings: Any,
    ) -> ByTask:
        """Clean latents of each task for `decode`: one entry an image, or one a tile, image after image.

        Args:
            images: as in `encode_image`.
            generators: one an image; the noise of each tile and further sample is drawn from its image's and its
                number.
            tile_size: side in pixels of overlapping tiles (`tiling.place_tiles`); None: each image is one entry.
            num_samples: of each entry, one after the other; an entry is encoded once for all.
            batch_size: samples at a time.
            tasks: as in `predict`.
            settings: the others of `predict`; `on_estimate` is called for one batch after the other.
        """
        entries = list(images)
        if tile_size is not None:
            arrays = [np.asarray(as_rgb(image)) for image in images]
            grids = [place_tiles(array.shape[:2], tile_size) for array in arrays]
            streams = list(zip(generators, grids, strict=True))
            generators = [g for stream, grid in streams for k in range(len(grid)) for g in branch([stream], "tile", k)]
            entries = [tile for array, grid in zip(arrays, grids) for tile in grid.cut(array)]
        parts = []
        for rows, batches in plan_batches(len(entries), num_samples, batch_size):
            features = self.encode_image([entries[row] for row in rows])
            for batch in batches:
                # the first sample is the one that is taken alone
                drawn = [branch([generators[row]], "sample", k)[0] if k else generators[row] for row, k in batch]
                repeated = features.take([row - rows[0] for row, _ in batch])
                parts.append(self.predict(repeated, generators=drawn, tasks=tasks, **settings))
        return {task: torch.cat([part[task] for part in parts]) for task in tasks}


def plan_batches(count: int, num_samples: int, batch_size: int) -> list[tuple[range, list[list[Job]]]]:
    """What is encoded together, and the batches in which it is sampled: the samples of one image in one where they fit.

    Args:
        count: of images or tiles.
        num_samples: of each.
        batch_size: samples at a time.
    """
    step = max(1, batch_size // num_samples)
    plan = []
    for start in range(0, count, step):
        rows = range(start, min(start + step, count))
        jobs = [(row, k) for row in rows for k in range(num_samples)]
        plan.append((rows, [jobs[first : first + batch_size] for first in range(0, len(jobs), batch_size)]))
    return plan
