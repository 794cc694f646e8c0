"""From photographs to panoptic maps: encode the image, denoise mask latents, decode, post-process."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from jaxtyping import Bool, Float, Int
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from .errors import InputError
from .inpainting import inpaint
from .models.autoencoder import MaskAutoencoder
from .models.denoiser import Denoiser
from .models.image_encoders import ImageEncoder
from .panoptic_output import PanopticOutput
from .postprocess import assign_classes, instances_from_logits, semantic_from_logits
from .sampling import Constraint, branch, one_each, sample_latents
from .tasks import get_tasks

Picture = Image.Image | np.ndarray | Tensor


@dataclass(frozen=True)
class ImageFeatures:
    """What the denoiser needs of one or more images: latents [batch, channels, h, w], and the images' own sizes."""

    latents: Float[Tensor, "batch channels rows columns"]
    sizes: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.sizes)


class LDMSegPipeline(DiffusionPipeline):
    """Latent diffusion for panoptic segmentation. Saved and loaded like any diffusers pipeline, safetensors only.

    Args:
        autoencoder: of id maps, shared by the instance and the semantic task.
        denoiser: the UNet with its task tokens.
        image_encoder: makes the condition.
        depth_autoencoder: of depth maps; None when the model knows no depth task.
        image_size: side in pixels of the square that images are resized to.
        categories: COCO category dicts in the order of the class indices 1, 2, ...
        prediction_type: what the denoiser predicts.
        sampler: the default sampler.
        threshold: the default of the softmax threshold (supplement A: 0.5).
        min_area: the default of the minimum area, in pixels of the image's own size (supplement A: 512).
        trained_on_photographs: whether the training images were photographs.
    """

    _optional_components = ["depth_autoencoder"]

    def __init__(
        self,
        autoencoder: MaskAutoencoder,
        denoiser: Denoiser,
        image_encoder: ImageEncoder,
        depth_autoencoder: MaskAutoencoder | None = None,
        *,
        image_size: int = 512,
        categories: Sequence[Mapping[str, Any]] = (),
        prediction_type: str = "epsilon",
        sampler: str = "ddim",
        threshold: float = 0.5,
        min_area: int = 512,
        trained_on_photographs: bool = False,
    ) -> None:
        super().__init__()
        self.register_modules(
            autoencoder=autoencoder,
            denoiser=denoiser,
            image_encoder=image_encoder,
            depth_autoencoder=depth_autoencoder,
        )
        self.register_to_config(
            image_size=image_size,
            categories=[dict(category) for category in categories],
            prediction_type=prediction_type,
            sampler=sampler,
            threshold=threshold,
            min_area=min_area,
            trained_on_photographs=trained_on_photographs,
        )

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike, **settings: Any) -> "LDMSegPipeline":
        """The pipeline that `save_pretrained` wrote to `folder`; weights are read from safetensors alone.

        Raises:
            InputError: there is no such pipeline, or a part of it is missing or of another shape.
        """
        try:
            return super().from_pretrained(folder, **{**settings, "use_safetensors": True})
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"{folder}: no pipeline can be loaded from it ({reason})") from error

    @property
    def num_ids(self) -> int:
        """Ids 0..num_ids-1 of an id map, 0 being void."""
        return self.autoencoder.config.num_ids

    @property
    def trained_on_photographs(self) -> bool:
        """Whether the training images were photographs; a model of drawn scenes promises nothing on them."""
        return self.config.trained_on_photographs

    @property
    def stuff_indices(self) -> tuple[int, ...]:
        """Class indices of the stuff categories."""
        return tuple(i for i, c in enumerate(self.config.categories, start=1) if not c.get("isthing", 1))

    @torch.no_grad()
    def encode_image(self, images: Picture | Sequence[Picture]) -> ImageFeatures:
        """Features of one or more images, for many prompts of `inpaint` or calls of `predict`.

        Args:
            images: PIL images, uint8 arrays [H, W, 3], or float tensors [3, H, W] in [0, 1]; sizes may differ.

        Raises:
            InputError: no image, or something that is none; the message says what is wrong with it.
        """
        pictures = images if isinstance(images, list | tuple) else [images]
        if not pictures:
            raise InputError("there is no image to encode; give at least one")
        side = self.config.image_size
        tensors, sizes = zip(*(_to_square(picture, side) for picture in pictures), strict=True)
        batch = torch.stack(tensors).to(self.device)
        cells = side // self.autoencoder.factor
        return ImageFeatures(self.image_encoder(batch, (cells, cells)).float(), list(sizes))

    @torch.no_grad()
    def predict(
        self,
        features: ImageFeatures,
        *,
        num_inference_steps: int = 50,
        tasks: Sequence[str] = ("instance", "semantic"),
        generators: Sequence[torch.Generator],
        sampler: str | None = None,
        constraint: Constraint | None = None,
        resamplings: int = 1,
        callback: Callable[[int, int], None] | None = None,
        on_estimate: Callable[[int, dict[str, Tensor]], None] | None = None,
    ) -> dict[str, Float[Tensor, "batch channels rows columns"]]:
        """Clean latents of each task, all tasks of all images in one batch.

        Args:
            features: from `encode_image`.
            generators: one CPU generator an image; of each only the seed that it began with counts.
            on_estimate: called after each step with (step, estimates by task).

        Raises:
            InputError: an unknown task or sampler, no task, or not as many generators as images.
        """
        count = len(features)
        if isinstance(tasks, str) or not tasks:
            raise InputError(f"tasks is {tasks!r}; give a list of names, such as ['instance', 'semantic']")
        if len(generators) != count:
            raise InputError(f"{len(generators)} generators for {count} images; give one for each image")
        numbers = self.denoiser.task_ids(tasks).repeat_interleave(count)

        def by_task(latents: Tensor) -> dict[str, Tensor]:
            return dict(zip(tasks, latents.split(count), strict=True))

        latents = sample_latents(
            self.denoiser,
            features.latents.repeat(len(tasks), 1, 1, 1),
            numbers,
            [g for task in tasks for g in branch(generators, task)],
            prediction_type=self.config.prediction_type,
            sampler=sampler or self.config.sampler,
            num_inference_steps=num_inference_steps,
            constraint=constraint,
            resamplings=resamplings,
            callback=callback,
            on_estimate=None if on_estimate is None else lambda step, z: on_estimate(step, by_task(z)),
        )
        return by_task(latents)

    @torch.no_grad()
    def decode(
        self,
        latents: Mapping[str, Tensor],
        sizes: Sequence[tuple[int, int]],
        *,
        threshold: float | None = None,
        min_area: int | None = None,
    ) -> PanopticOutput:
        """Clean latents of each task (from `predict`) as maps of the given sizes (height, width)."""
        threshold = self.config.threshold if threshold is None else threshold
        min_area = self.config.min_area if min_area is None else min_area
        tasks = {task.name: task for task in get_tasks(list(latents))}
        output = PanopticOutput(categories=[dict(c) for c in self.config.categories])
        num_classes = min(len(self.config.categories) + 1, self.num_ids)
        for index, size in enumerate(sizes):
            values = {
                name: self._autoencoder(task.autoencoder).from_latents(latents[name][index : index + 1])[0]
                for name, task in tasks.items()
            }
            semantic = instance = None
            if "semantic" in values and num_classes > 1:
                # channel 0, void, is no answer: it is no positive in training (method section 2.4)
                semantic = semantic_from_logits(values["semantic"][1:num_classes], size=size) + 1
            if "instance" in values:
                instance = instances_from_logits(
                    values["instance"], size=size, threshold=threshold, min_area=min_area
                )
            ids, classes = self._panoptic(instance, semantic, size)
            output.ids.append(ids)
            output.segments.append(self._segments(ids, classes))
            output.instance_ids.append(_numpy(instance, size))
            output.semantic.append(None if semantic is None else _numpy(semantic, size))
            depth = values.get("depth")
            output.depth.append(None if depth is None else _resized_depth(depth, size))
        return output

    def __call__(
        self,
        images: Picture | Sequence[Picture],
        *,
        num_inference_steps: int = 50,
        tasks: Sequence[str] = ("instance", "semantic"),
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        sampler: str | None = None,
        threshold: float | None = None,
        min_area: int | None = None,
        batch_size: int = 16,
    ) -> PanopticOutput:
        """Segment images of any size; results have the images' own sizes.

        Args:
            images: one or more PIL images, uint8 arrays [H, W, 3], or float tensors [3, H, W] in [0, 1].
            num_inference_steps: denoising steps (supplement B: 10 to 50).
            tasks: what to predict, of the tasks that the model knows.
            generator: a generator, or one for each image, of which only the seed that it began with counts; None is
                torch's global one. Results do not depend on `batch_size`.
            sampler: instead of the pipeline's own.
            threshold: instead of the pipeline's own; 0 is arg max alone.
            min_area: instead of the pipeline's own, in pixels of the image's own size.
            batch_size: images at a time.

        Raises:
            InputError: an unknown task or sampler, a picture that is none.
        """
        pictures = list(images) if isinstance(images, list | tuple) else [images]
        generators = one_each(generator, len(pictures))
        output = PanopticOutput(categories=[dict(c) for c in self.config.categories])
        starts = range(0, len(pictures), batch_size)
        with self.progress_bar(total=len(starts) * num_inference_steps) as bar:
            for start in starts:
                features = self.encode_image(pictures[start : start + batch_size])
                latents = self.predict(
                    features,
                    num_inference_steps=num_inference_steps,
                    tasks=tasks,
                    generators=generators[start : start + batch_size],
                    sampler=sampler,
                    callback=lambda *_: bar.update(),
                )
                output.extend(self.decode(latents, features.sizes, threshold=threshold, min_area=min_area))
        return output

    @torch.no_grad()
    def inpaint(
        self,
        features: ImageFeatures,
        ids: Int[np.ndarray, "height width"],
        known: Bool[np.ndarray, "height width"],
        *,
        num_inference_steps: int = 20,
        num_candidates: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        sampler: str | None = None,
        resamplings: int = 1,
        threshold: float = 0.0,
        min_area: int | None = None,
        callback: Callable[[int, int], None] | None = None,
        segments: Sequence[Mapping[str, Any]] | None = None,
    ) -> PanopticOutput:
        """Complete a partly known segmentation (method section 5.3); known pixels keep their ids exactly.

        Hidden pixels take known ids (a segment grows) or the lowest unused ids (a segment appears).

        Args:
            features: of one image, from `encode_image`.
            ids: whole numbers from 0 at the image's own size, 0 is void; at most `num_ids - 1` known segments.
            known: False where the model is to answer.
            num_inference_steps: denoising steps.
            num_candidates: different answers, in one batch.
            generator: a CPU generator, or one for each candidate; None draws a random seed.
            sampler: instead of the pipeline's own.
            resamplings: how often each step is done, going back up in noise in between (RePaint); 1 is the plain loop.
            threshold: hidden pixels whose largest softmax value is below it become void; 0 answers everywhere.
            min_area: new segments with fewer pixels become void; None: the pipeline's own.
            callback: called before each step with (steps done, steps in all); may raise to cancel.
            segments: dicts of `id` and `category_id` of known segments; those that take no hidden pixel keep theirs.

        Returns:
            One entry for each candidate. Classes are the majority of the sampled semantic map, where the model knows
            that task; elsewhere None, or as given in `segments`.

        Raises:
            InputError: sizes that differ, ids out of range, more known segments than the model has ids, an unknown
                sampler.
        """
        return inpaint(
            self,
            features,
            ids,
            known,
            generators=one_each(generator, num_candidates),
            segments=segments or (),
            threshold=threshold,
            min_area=self.config.min_area if min_area is None else min_area,
            num_inference_steps=num_inference_steps,
            sampler=sampler,
            resamplings=resamplings,
            callback=callback,
        )

    def _autoencoder(self, name: str) -> MaskAutoencoder:
        chosen = self.autoencoder if name == "mask" else self.depth_autoencoder
        if chosen is None:
            raise InputError("this pipeline has no depth autoencoder; train the depth task with notebook 08")
        return chosen

    def _panoptic(
        self, instance: Tensor | None, semantic: Tensor | None, size: tuple[int, int]
    ) -> tuple[np.ndarray, dict[int, int | None]]:
        if instance is None:
            return np.zeros(size, np.int32), {}
        if semantic is None:
            ids = _numpy(instance, size)
            return ids, dict.fromkeys((int(i) for i in np.unique(ids) if i), None)
        ids, classes = assign_classes(
            instance,
            semantic,
            num_ids=self.num_ids,
            num_classes=len(self.config.categories) + 1,
            stuff_ids=self.stuff_indices,
        )
        return _numpy(ids, size), dict(classes)

    def _segments(self, ids: np.ndarray, classes: Mapping[int, int | None]) -> list[dict[str, Any]]:
        areas = np.bincount(ids.ravel(), minlength=1)
        segments = []
        for segment_id, index in sorted(classes.items()):
            category = {} if index is None else self.config.categories[index - 1]
            segments.append(
                {
                    "id": int(segment_id),
                    "category_id": category.get("id"),
                    "isthing": category.get("isthing"),
                    "area": int(areas[segment_id]),
                }
            )
        return segments


def _to_square(picture: Picture, side: int) -> tuple[Tensor, tuple[int, int]]:
    """A picture as float [3, side, side] in [0, 1], by antialiased bicubic resizing, and its size (height, width)."""
    if isinstance(picture, Tensor):
        if picture.dim() != 3 or picture.shape[0] != 3 or not picture.is_floating_point() or not picture.numel():
            raise InputError(
                f"an image tensor must be float [3, height, width] in [0, 1], not {picture.dtype} {list(picture.shape)}"
            )
        low, high = picture.min().item(), picture.max().item()
        # resizing overshoots a little; more than this is another scale, such as [-1, 1] or 0..255
        if not (low >= -0.5 and high <= 1.5):
            raise InputError(f"an image tensor must lie in [0, 1], not from {low:.3g} to {high:.3g}")
        picture = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    if isinstance(picture, np.ndarray):
        shape_fits = picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] in (3, 4))
        if picture.dtype != np.uint8 or not shape_fits or not picture.size:
            raise InputError(f"an image array must be uint8 [height, width, 3], not {picture.dtype} {picture.shape}")
        picture = Image.fromarray(picture)
    if not isinstance(picture, Image.Image):
        raise InputError(f"an image must be a PIL image, an array or a tensor, not {type(picture).__name__}")
    rgb = picture.convert("RGB")
    size = (rgb.height, rgb.width)
    if size != (side, side):
        rgb = rgb.resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).float() / 255, size


def _numpy(ids: Tensor | None, size: tuple[int, int]) -> np.ndarray:
    return np.zeros(size, np.int32) if ids is None else ids.cpu().numpy().astype(np.int32)


def _resized_depth(depth: Tensor, size: tuple[int, int]) -> np.ndarray:
    whole = torch.nn.functional.interpolate(depth[None].float(), size=size, mode="bilinear", align_corners=False)
    return whole[0, 0].cpu().numpy()
