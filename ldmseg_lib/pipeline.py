"""From photographs to panoptic maps: encode the image, denoise mask latents, decode, post-process."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from .data.pixels import read_ids
from .errors import InputError
from .files import inside, read_json, replacing, write_json
from .models.autoencoder import MaskAutoencoder
from .models.denoiser import Denoiser
from .models.image_encoders import ImageEncoder
from .postprocess import assign_classes, instances_from_logits, semantic_from_logits
from .sampling import branch, sample_latents
from .tasks import get_tasks

Picture = Image.Image | np.ndarray | Tensor


@dataclass
class PanopticOutput:
    """Predictions, lists with one entry an image, at the images' own sizes.

    `ids`: int32 [H, W], 0 where there is no segment. `segments`: dicts of id, category_id (None without the semantic
    task), isthing, area. `instance_ids`: int32 [H, W], the same before classes were voted and equal stuff was merged.
    `semantic`: int32 [H, W] class indices, 0 is void, or None. `depth`: float32 [H, W] relative inverse depth in about
    [-1, 1] (larger is nearer, up to scale and shift), or None.
    """

    ids: list[np.ndarray] = field(default_factory=list)
    segments: list[list[dict[str, Any]]] = field(default_factory=list)
    instance_ids: list[np.ndarray] = field(default_factory=list)
    semantic: list[np.ndarray | None] = field(default_factory=list)
    depth: list[np.ndarray | None] = field(default_factory=list)
    categories: list[dict[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def extend(self, other: "PanopticOutput") -> None:
        """Append the images of `other`."""
        for name in ("ids", "segments", "instance_ids", "semantic", "depth"):
            getattr(self, name).extend(getattr(other, name))
        self.categories = other.categories or self.categories

    def save_coco(
        self,
        json_path: str | Path,
        png_folder: str | Path,
        *,
        image_ids: Sequence[int] | None = None,
        file_names: Sequence[str] | None = None,
    ) -> None:
        """Write the predictions in COCO's panoptic format: one id PNG an image and one JSON.

        Args:
            json_path: the JSON; its annotations name the PNGs.
            png_folder: gets the PNGs.
            image_ids: the images' ids; 0, 1, 2, ... by default.
            file_names: the PNGs' names; the image id, padded to 12 digits, by default.
        """
        image_ids = list(range(len(self))) if image_ids is None else list(image_ids)
        file_names = [f"{i:012d}.png" for i in image_ids] if file_names is None else list(file_names)
        annotations = []
        for ids, segments, image_id, name in zip(self.ids, self.segments, image_ids, file_names, strict=True):
            with replacing(Path(png_folder) / name) as temporary:
                write_id_png(temporary, ids)
            info = [{key: s[key] for key in ("id", "category_id", "area")} | {"iscrowd": 0} for s in segments]
            annotations.append({"image_id": image_id, "file_name": name, "segments_info": info})
        write_json(json_path, {"annotations": annotations, "categories": self.categories})


    @classmethod
    def load_coco(cls, json_path: str | Path, png_folder: str | Path) -> "PanopticOutput":
        """Predictions in COCO's panoptic format, ours or another tool's, in the order of the JSON."""
        found = read_json(json_path)
        output = cls(categories=found.get("categories", []))
        for annotation in found["annotations"]:
            ids = read_ids(inside(png_folder, annotation["file_name"])).astype(np.int32)
            output.ids.append(ids)
            output.instance_ids.append(ids)
            output.segments.append(annotation["segments_info"])
            output.semantic.append(None)
            output.depth.append(None)
        return output


def write_id_png(path: str | Path, ids: np.ndarray) -> None:
    """Write an id map [H, W] as COCO does: id = R + 256 G + 65536 B."""
    wide = ids.astype(np.uint32)
    rgb = np.stack([wide & 255, (wide >> 8) & 255, (wide >> 16) & 255], axis=-1).astype(np.uint8)
    if not cv2.imwrite(str(path), rgb[..., ::-1]):
        raise OSError(f"{path}: the PNG could not be written")


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

    @property
    def num_ids(self) -> int:
        """Ids 0..num_ids-1 of an id map, 0 being void."""
        return self.autoencoder.config.num_ids

    @property
    def stuff_indices(self) -> tuple[int, ...]:
        """Class indices of the stuff categories."""
        return tuple(i for i, c in enumerate(self.config.categories, start=1) if not c.get("isthing", 1))

    @torch.no_grad()
    def encode_image(self, images: Picture | Sequence[Picture]) -> ImageFeatures:
        """Features of one or more images, for many prompts of `inpaint` or calls of `predict`.

        Args:
            images: PIL images, uint8 arrays [H, W, 3], or float tensors [3, H, W] in [0, 1]; sizes may differ.
        """
        pictures = images if isinstance(images, list | tuple) else [images]
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
        callback: Callable[[int, int], None] | None = None,
        on_estimate: Callable[[int, dict[str, Tensor]], None] | None = None,
    ) -> dict[str, Float[Tensor, "batch channels rows columns"]]:
        """Clean latents of each task, all tasks of all images in one batch.

        Args:
            features: from `encode_image`.
            generators: one CPU generator an image.
            on_estimate: called after each step with (step, estimates by task).
        """
        count = len(features)
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
            if "semantic" in values:
                semantic = semantic_from_logits(_without_void(values["semantic"][:num_classes]), size=size)
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
            generator: a CPU generator, or one for each image; None draws a random seed. Results do not depend on
                `batch_size`.
            sampler: instead of the pipeline's own.
            threshold: instead of the pipeline's own; 0 is arg max alone.
            min_area: instead of the pipeline's own, in pixels of the image's own size.
            batch_size: images at a time.

        Raises:
            InputError: an unknown task or sampler, a picture that is none.
        """
        pictures = list(images) if isinstance(images, list | tuple) else [images]
        generators = _one_each(generator, len(pictures))
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
        if picture.dim() != 3 or picture.shape[0] != 3:
            raise InputError(f"an image tensor must be [3, height, width] in [0, 1], not {list(picture.shape)}")
        picture = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim not in (2, 3):
            raise InputError(f"an image array must be uint8 [height, width, 3], not {picture.dtype} {picture.shape}")
        picture = Image.fromarray(picture)
    if not isinstance(picture, Image.Image):
        raise InputError(f"an image must be a PIL image, an array or a tensor, not {type(picture).__name__}")
    rgb = picture.convert("RGB")
    size = (rgb.height, rgb.width)
    if size != (side, side):
        rgb = rgb.resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).float() / 255, size


def _one_each(
    generator: torch.Generator | Sequence[torch.Generator] | None, count: int
) -> list[torch.Generator]:
    if isinstance(generator, list | tuple):
        if len(generator) != count:
            raise InputError(f"{len(generator)} generators for {count} images; give one, or one for each image")
        return list(generator)
    source = generator if generator is not None else torch.Generator().manual_seed(torch.seed())
    seeds = torch.randint(2**62, (count,), generator=source, device=source.device).tolist()
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _without_void(logits: Tensor) -> Tensor:
    """Class logits whose void channel never wins: it is no positive in training (method section 2.4)."""
    return torch.cat([torch.full_like(logits[:1], -torch.inf), logits[1:]])


def _numpy(ids: Tensor | None, size: tuple[int, int]) -> np.ndarray:
    return np.zeros(size, np.int32) if ids is None else ids.cpu().numpy().astype(np.int32)


def _resized_depth(depth: Tensor, size: tuple[int, int]) -> np.ndarray:
    whole = torch.nn.functional.interpolate(depth[None].float(), size=size, mode="bilinear", align_corners=False)
    return whole[0, 0].cpu().numpy()
