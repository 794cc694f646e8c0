"""Mask inpainting: a part of a segmentation is known, the rest is denoised around it.

Nothing is trained for it. At every denoising step the known latents are put back at that step's noise level, and only
the others come from the model. What is hidden is void in pixel space, before the autoencoder sees it, and a latent cell
counts as known only where all its pixels are: each latent sees many more pixels than its own block, so that encoding
the whole map and dropping latents would give the answer away.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.errors import InputError
from ..data.transforms import resize_nearest
from ..diffusion.sampling import Latents, branch, initial_noise
from ..diffusion.schedulers import NoiseSchedule
from .consensus import agreement_with
from .images import ImageFeatures
from .output import PanopticOutput
from .postprocess import assign_classes
from .prompts import IdMap, KnownMap, Prompt, nearest_label, read_prompt, whole_cells

# New segments get their ids while noise is high and what is known hardly shows. Fresh noise at every step lets the
# model give them up again for known ones (Lugmayr et al., RePaint); DDIM keeps to its first choice.
DEFAULT_SAMPLER = "ddpm"


class KnownLatents:
    """Holds the known cells of a batch in place while the others are denoised (a `sampling.Constraint`).

    Args:
        latents: clean latents z_0; read where `cells` is True.
        cells: which cells are known.
        generators: one CPU generator a sample, for the noise of the known cells.
    """

    def __init__(
        self, latents: Latents, cells: Bool[Tensor, "batch 1 height width"], generators: Sequence[torch.Generator]
    ) -> None:
        self.latents, self.cells, self.generators = latents, cells, list(generators)
        self._schedule = NoiseSchedule()

    def clean(self, estimate: Latents) -> Latents:
        """An estimate of z_0 with the known cells as they are."""
        return torch.where(self.cells, self.latents, estimate)

    def noisy(self, sample: Latents, timestep: int | None) -> Latents:
        """z_t with the known cells at that noise level, by fresh noise; None is the end, where they are clean."""
        if timestep is None:
            return self.clean(sample)
        noise = initial_noise(tuple(sample.shape[1:]), self.generators).to(sample)
        levels = torch.full((len(sample),), timestep, device=sample.device)
        return torch.where(self.cells, self._schedule.add_noise(self.latents, noise, levels), sample)


def known_latents(
    pipeline: DiffusionPipeline,
    prompts: Sequence[Prompt],
    *,
    tasks: Sequence[str],
    generators: Sequence[torch.Generator],
) -> KnownLatents:
    """What `prompts` hold of each task's latents, all prompts of the first task first (as `predict` has its batch).

    Void says nothing of what is there: cells with void pixels are left to the model. So are, in the semantic task,
    those of segments whose class was not given.
    """
    side, factor = pipeline.config.image_size, pipeline.autoencoder.factor
    maps, cells = [], []
    for task in tasks:
        for prompt in prompts:
            target = prompt.ids if task == "instance" else prompt.classes[prompt.ids]
            maps.append(torch.from_numpy(resize_nearest(target, side)))
            cells.append(torch.from_numpy(whole_cells(target != 0, side=side, factor=factor)))
    streams = [stream for task in tasks for stream in branch(generators, "known", task)]
    latents = [pipeline.autoencoder.to_latents(part.to(pipeline.device)) for part in torch.stack(maps).split(16)]
    return KnownLatents(torch.cat(latents).float(), torch.stack(cells)[:, None].to(pipeline.device), streams)


def denoise(
    pipeline: DiffusionPipeline,
    features: ImageFeatures,
    prompts: Sequence[Prompt],
    *,
    tasks: Sequence[str],
    generators: Sequence[torch.Generator],
    num_inference_steps: int,
    sampler: str | None = None,
    round_estimates: bool | None = None,
    resamplings: int = 1,
    callback: Callable[[int, int], None] | None = None,
) -> dict[str, Float[Tensor, "batch channels rows columns"]]:
    """Clean latents of each task around what is known, all prompts in one batch; `features` has one entry a prompt.

    Args:
        sampler: None is `DEFAULT_SAMPLER`.
    """
    return pipeline.predict(
        features,
        num_inference_steps=num_inference_steps,
        tasks=tasks,
        generators=generators,
        sampler=sampler or DEFAULT_SAMPLER,
        round_estimates=round_estimates,
        constraint=known_latents(pipeline, prompts, tasks=tasks, generators=generators),
        resamplings=resamplings,
        callback=callback,
    )


def completed(prompt: Prompt, found: IdMap, *, min_area: int) -> Int[np.ndarray, "height width"]:
    """`found` with every known pixel as it was given; new segments under `min_area` pixels join the nearest segment.

    Args:
        found: the model's ids of every pixel, 0 where it is not confident.

    Returns:
        int64, still in the model's ids.
    """
    ids = np.where(prompt.known, prompt.ids, found)
    kept = np.bincount(ids.ravel(), minlength=len(prompt.classes)) >= min_area
    kept[[0, *prompt.given_ids]] = True
    small = ~kept[ids]
    return np.where(small, nearest_label(ids, ~small & (ids != 0)), ids)


def classified(
    prompt: Prompt, ids: IdMap, semantic: Int[np.ndarray, "height width"], *, num_classes: int, stuff: Collection[int]
) -> tuple[IdMap, dict[int, int]]:
    """Classes of a completed map, by the majority of the semantic map's pixels in each segment.

    A known segment that took no hidden pixel keeps the class that was given for it. A new segment of a stuff class
    joins the first known segment of that class, else the first new one; known segments are never merged.

    Args:
        ids: from `completed`.
        semantic: class indices, 0 is void.

    Returns:
        (ids after merging, {id: class index}).
    """
    voted_ids, classes = assign_classes(
        torch.from_numpy(ids), torch.from_numpy(semantic), num_ids=len(prompt.classes), num_classes=num_classes
    )
    ids = np.where(prompt.known, ids, voted_ids.numpy())
    for segment_id in untouched(prompt, ids):
        if prompt.classes[segment_id]:
            classes[segment_id] = int(prompt.classes[segment_id])
    home: dict[int, int] = {}
    renamed = np.arange(len(prompt.classes))
    for segment_id in sorted(classes, key=lambda i: (i not in prompt.given_ids, i)):
        if classes[segment_id] in stuff:
            first = home.setdefault(classes[segment_id], segment_id)
            if segment_id not in prompt.given_ids:
                renamed[segment_id] = first
    return renamed[ids], {i: c for i, c in classes.items() if renamed[i] == i}


def untouched(prompt: Prompt, ids: IdMap) -> set[int]:
    """The known segments, in the model's ids, that took no hidden pixel of a completed map."""
    return set(prompt.given_ids) - {int(i) for i in np.unique(ids[~prompt.known])}


def inpaint(
    pipeline: DiffusionPipeline,
    features: ImageFeatures,
    ids: IdMap,
    known: KnownMap,
    *,
    generators: Sequence[torch.Generator],
    segments: Sequence[Mapping[str, Any]],
    threshold: float,
    min_area: int,
    **sampling: Any,
) -> PanopticOutput:
    """What `LDMSegPipeline.inpaint` does, with one generator for each candidate and `sampling` as of `denoise`.

    A candidate depends on its own generator, not on the number of candidates.
    """
    if not generators:
        raise InputError("no candidate was asked for; num_candidates must be at least 1")
    if len(features) != 1:
        raise InputError(f"the features are of {len(features)} images; inpaint them one at a time")
    if np.shape(ids) != tuple(features.sizes[0]):
        raise InputError(
            f"ids have shape {np.shape(ids)}, but the image {tuple(features.sizes[0])} (height, width); give the "
            "segmentation at the image's own size"
        )
    categories = pipeline.config.categories
    # the autoencoder has room for no more classes than ids
    class_index = {category["id"]: i for i, category in enumerate(categories[: pipeline.num_ids - 1], start=1)}
    prompts = [
        read_prompt(ids, known, num_ids=pipeline.num_ids, generator=stream, segments=segments, class_index=class_index)
        for stream in branch(generators, "ids")
    ]
    count = len(prompts)
    repeated = features.take([0] * count)
    tasks = ["instance"] + ["semantic"] * ("semantic" in pipeline.denoiser.config.tasks)
    latents = denoise(pipeline, repeated, prompts, tasks=tasks, generators=generators, **sampling)
    found = pipeline.decode(latents, repeated.sizes, threshold=threshold, min_area=0)
    output = PanopticOutput(categories=found.categories)
    for prompt, instances, semantic in zip(prompts, found.instance_ids, found.semantic, strict=True):
        final = instances = completed(prompt, instances, min_area=min_area)
        classes: dict[int, int] = {}
        if semantic is not None:
            given = prompt.classes[prompt.ids]
            semantic = np.where(given != 0, given, semantic)
            final, classes = classified(
                prompt, instances, semantic, num_classes=len(categories) + 1, stuff=pipeline.stuff_indices
            )
            semantic = semantic.astype(np.int32)
        names = prompt.names(final)
        output.ids.append(names[final])
        output.instance_ids.append(prompt.names(instances)[instances])
        output.segments.append(_segments(prompt, final, classes, names, categories))
        output.semantic.append(semantic)
        output.depth.append(None)
    output.agreement = [agreement_with(ids, output.instance_ids) for ids in output.instance_ids]
    return output


def _segments(
    prompt: Prompt, ids: np.ndarray, classes: Mapping[int, int], names: np.ndarray, categories: Sequence[Mapping]
) -> list[dict[str, Any]]:
    """The segments of a completed map, in the order of their ids."""
    same = untouched(prompt, ids)
    segments = []
    for model_id, area in zip(*np.unique(ids[ids != 0], return_counts=True), strict=True):
        index, given = classes.get(int(model_id)), prompt.segments.get(int(names[model_id]), {})
        category = {} if index is None else categories[index - 1]
        category_id, isthing = category.get("id"), category.get("isthing")
        if given.get("category_id") is not None and (index is None or int(model_id) in same):
            # also a category that the model does not know
            known = {c["id"]: c.get("isthing") for c in categories}
            category_id = given["category_id"]
            isthing = given.get("isthing", known.get(category_id))
        segments.append({"id": int(names[model_id]), "category_id": category_id, "isthing": isthing, "area": int(area)})
    return sorted(segments, key=lambda segment: segment["id"])
