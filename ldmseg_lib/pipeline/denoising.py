"""What `LDMSegPipeline` does when it is called: all tasks of an image at once; images, tiles and samples in batches.

Functions of the pipeline, as is `inpainting.inpaint`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..core.errors import InputError
from ..diffusion.sampling import branch, one_each, sample_latents
from ..diffusion.tasks import get_tasks
from .consensus import require_room
from .images import ImageFeatures, Picture, as_rgb, size_of
from .output import PanopticOutput
from .rounding import rounded
from .tiling import count_tiles, fill_batches, place_tiles

OnEstimate = Callable[[int, dict[str, Tensor]], None]
ByTask = dict[str, Float[Tensor, "batch channels rows columns"]]
Job = tuple[int, int]
"""An image or tile, and the number of its sample."""


def predict(
    pipeline: Any,
    features: ImageFeatures,
    *,
    tasks: Sequence[str],
    generators: Sequence[torch.Generator],
    sampler: str | None,
    round_estimates: bool | None,
    on_estimate: OnEstimate | None,
    **settings: Any,
) -> ByTask:
    """Clean latents of each task; `settings` are those of `sample_latents`, the others as of `LDMSegPipeline.predict`.

    Raises:
        InputError: as there.
    """
    count, config = len(features), pipeline.config
    if isinstance(tasks, str) or not tasks:
        raise InputError(f"tasks is {tasks!r}; give a list of names, such as ['instance', 'semantic']")
    if len(generators) != count:
        raise InputError(f"{len(generators)} generators for {count} images; give one for each image")
    numbers = pipeline.denoiser.task_ids(tasks).repeat_interleave(count)

    def by_task(latents: Tensor) -> ByTask:
        return dict(zip(tasks, latents.split(count), strict=True))

    def rounding(latents: Tensor) -> Tensor:
        return torch.cat([_rounded(pipeline, task, values) for task, values in by_task(latents).items()])

    wanted = config.round_estimates if round_estimates is None else round_estimates
    latents = sample_latents(
        pipeline.denoiser,
        features.latents.repeat(len(tasks), 1, 1, 1),
        numbers,
        [g for task in tasks for g in branch(generators, task)],
        prediction_type=config.prediction_type,
        affinity=features.affinity,
        sampler=sampler or config.sampler,
        rounding=rounding if wanted else None,
        on_estimate=None if on_estimate is None else lambda step, z: on_estimate(step, by_task(z)),
        **settings,
    )
    return by_task(latents)


def _rounded(pipeline: Any, task: str, latents: Tensor) -> Tensor:
    """`latents` rounded, where they are of id maps; a map of values has no nearest valid one."""
    if get_tasks([task])[0].autoencoder != "mask":
        return latents
    classes = min(len(pipeline.config.categories), pipeline.num_ids - 1)
    labels = classes if task == "semantic" and classes else pipeline.num_ids - 1
    return rounded(pipeline.autoencoder, latents, labels=labels)


def sample_entries(
    pipeline: Any,
    images: Sequence[Picture],
    *,
    generators: Sequence[torch.Generator],
    tile_size: int | None,
    num_samples: int,
    batch_size: int,
    tasks: Sequence[str],
    **settings: Any,
) -> ByTask:
    """Clean latents of images or of their tiles; arguments as of `LDMSegPipeline.sample`."""
    entries = list(images)
    if tile_size is not None:
        arrays = [np.asarray(as_rgb(image)) for image in images]
        grids = [place_tiles(array.shape[:2], tile_size) for array in arrays]
        streams = list(zip(generators, grids, strict=True))
        generators = [g for stream, grid in streams for k in range(len(grid)) for g in branch([stream], "tile", k)]
        entries = [tile for array, grid in zip(arrays, grids) for tile in grid.cut(array)]
    parts = []
    for rows, batches in plan_batches(len(entries), num_samples, batch_size):
        features = pipeline.encode_image([entries[row] for row in rows])
        for batch in batches:
            # the first sample is the one that is taken alone
            drawn = [branch([generators[row]], "sample", k)[0] if k else generators[row] for row, k in batch]
            repeated = features.take([row - rows[0] for row, _ in batch])
            parts.append(pipeline.predict(repeated, generators=drawn, tasks=tasks, **settings))
    return {task: torch.cat([part[task] for part in parts]) for task in tasks}


def segment(
    pipeline: Any,
    pictures: Sequence[Picture],
    *,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    tile_size: int | None,
    num_samples: int,
    batch_size: int,
    cleaning: dict[str, Any],
    num_inference_steps: int,
    **settings: Any,
) -> PanopticOutput:
    """The maps of images of any size, with a progress bar over all of them.

    Args:
        cleaning: `threshold` and `min_area` of `LDMSegPipeline.decode`.
        settings: others of `LDMSegPipeline.predict`.
    """
    sizes = [size_of(picture) for picture in pictures]
    require_room(num_samples, max((height * width for height, width in sizes), default=0))
    output = PanopticOutput(categories=[dict(c) for c in pipeline.config.categories])
    jobs = zip(pictures, one_each(generator, len(pictures)), sizes, strict=True)
    groups = list(fill_batches(jobs, lambda job: count_tiles(job[2], tile_size) * num_samples, batch_size))
    entries = [sum(count_tiles(size, tile_size) for *_, size in group) for group in groups]
    batches = sum(len(parts) for count in entries for _, parts in plan_batches(count, num_samples, batch_size))
    shape: dict[str, Any] = {"tile_size": tile_size, "num_samples": num_samples}
    with pipeline.progress_bar(total=batches * num_inference_steps) as bar:
        for group in groups:
            latents = pipeline.sample(
                [picture for picture, *_ in group],
                generators=[stream for _, stream, _ in group],
                batch_size=batch_size,
                num_inference_steps=num_inference_steps,
                callback=lambda *_: bar.update(),
                **shape,
                **settings,
            )
            output.extend(pipeline.decode(latents, [size for *_, size in group], **shape, **cleaning))
    return output


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
