"""From photographs to panoptic maps: encode the image, denoise mask latents, decode, post-process."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from torch import Tensor

from ..core.errors import InputError
from ..diffusion.sampling import Constraint, branch, one_each, sample_latents
from ..diffusion.tasks import get_tasks
from ..models.autoencoder import MaskAutoencoder
from ..models.denoiser import Denoiser
from ..models.image_encoders import ImageEncoder
from ..models.safetensors_model import require_kind
from .decoding import decode_latents, stuff_indices
from .images import ImageFeatures, Picture, as_rgb, size_of, to_square
from .inpainting import inpaint
from .model_card import complete_card
from .output import PanopticOutput
from .pretrained import EMBEDDED, embedded_folder
from .tiling import count_tiles, fill_batches, place_tiles


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
        tile_size: the default of the side in pixels of the tiles that an image is cut into, for a model trained on
            crops; None: the whole image at once.
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
        categories: list[dict[str, Any]] | None = None,
        prediction_type: str = "epsilon",
        sampler: str = "ddim",
        threshold: float = 0.5,
        min_area: int = 512,
        tile_size: int | None = None,
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
            categories=[dict(category) for category in categories or []],
            prediction_type=prediction_type,
            sampler=sampler,
            threshold=threshold,
            min_area=min_area,
            tile_size=tile_size,
            trained_on_photographs=trained_on_photographs,
        )

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike, **settings: Any) -> "LDMSegPipeline":
        """The pipeline that `save_pretrained` wrote to `folder`; weights are read from safetensors alone.

        Args:
            folder: a folder, a name on the hub, or "embedded": the ready model of the embedded scenes.
            settings: those of diffusers.

        Raises:
            InputError: the folder holds no pipeline or something else, or a part is missing or of another shape.
        """
        place = embedded_folder() if folder == EMBEDDED else folder
        require_kind(place, cls.__name__)
        try:
            return super().from_pretrained(os.fspath(place), **{**settings, "use_safetensors": True})
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"{folder}: no pipeline can be loaded from it ({reason})") from error

    def save_pretrained(
        self, save_directory: str | os.PathLike, safe_serialization: bool = True, **kwargs: Any
    ) -> None:
        """As diffusers does, `push_to_hub` included, but pickles (safe_serialization=False) are an InputError."""
        if not safe_serialization:
            raise InputError("safe_serialization=False would write pickles; weights are saved as safetensors alone")
        super().save_pretrained(os.fspath(save_directory), **kwargs)

    def _upload_folder(self, working_dir: str | os.PathLike, *arguments: Any, **settings: Any) -> Any:
        """The last step of diffusers' `push_to_hub`, with a card that says something in place of its empty one."""
        complete_card(working_dir, self)
        return super()._upload_folder(working_dir, *arguments, **settings)

    def speed_up(self, *, dtype: torch.dtype = torch.bfloat16, **compiling: Any) -> "LDMSegPipeline":
        """Make the denoising steps fast on a GPU, in place: weights in 16 bits, channels last, CUDA graphs.

        Latents, estimates of z_0 and noise levels stay in float32. The first call of each batch size compiles, which
        takes minutes at full size; a pipeline to be saved is better left as it was trained.

        Args:
            dtype: of the denoiser's weights.
            compiling: settings of `torch.compile` in place of its "reduce-overhead" mode without dynamic shapes.

        Returns:
            The pipeline itself.
        """
        self.denoiser.to(dtype=dtype, memory_format=torch.channels_last)
        self.denoiser.compile(**(compiling or {"mode": "reduce-overhead", "dynamic": False}), fullgraph=True)
        return self

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
        return stuff_indices(self.config.categories)

    @torch.no_grad()
    def encode_image(self, images: Picture | Sequence[Picture]) -> ImageFeatures:
        """Features of one or more images, for many prompts of `inpaint` or calls of `predict`.

        Args:
            images: PIL images, uint8 arrays [H, W, 3], or float tensors [3, H, W] in [0, 1]; sizes may differ.

        Raises:
            InputError: no image, or something that is none; the message says what is wrong with it.
        """
        pictures: Sequence[Any] = images if isinstance(images, list | tuple) else [images]
        if not pictures:
            raise InputError("there is no image to encode; give at least one")
        side = self.config.image_size
        rgb = [as_rgb(picture) for picture in pictures]
        batch = torch.stack([to_square(picture, side) for picture in rgb]).to(self.device)
        cells = side // self.autoencoder.factor
        sizes = [(picture.height, picture.width) for picture in rgb]
        return ImageFeatures(self.image_encoder(batch, (cells, cells)).float(), sizes)

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

    def sample(
        self,
        images: Sequence[Picture],
        *,
        generators: Sequence[torch.Generator],
        tile_size: int | None = None,
        batch_size: int = 16,
        tasks: Sequence[str] = ("instance", "semantic"),
        on_estimate: Callable[[int, dict[str, Tensor]], None] | None = None,
        **settings: Any,
    ) -> dict[str, Float[Tensor, "tiles channels rows columns"]]:
        """Clean latents of each task for `decode`: one entry an image, or one a tile, image after image.

        Args:
            images: as in `encode_image`.
            generators: one an image; each tile's noise is drawn from its image's and its number.
            tile_size: side in pixels of overlapping tiles (`tiling.place_tiles`); None: each image is one entry.
            batch_size: entries at a time.
            tasks: as in `predict`.
            on_estimate: as in `predict`, for one batch after the other.
            settings: the others of `predict`.
        """
        entries = list(images)
        if tile_size is not None:
            arrays = [np.asarray(as_rgb(image)) for image in images]
            grids = [place_tiles(array.shape[:2], tile_size) for array in arrays]
            streams = list(zip(generators, grids, strict=True))
            generators = [g for stream, grid in streams for k in range(len(grid)) for g in branch([stream], "tile", k)]
            entries = [tile for array, grid in zip(arrays, grids) for tile in grid.cut(array)]
        parts = []
        for start in range(0, len(entries), batch_size):
            rows = slice(start, start + batch_size)
            features = self.encode_image(entries[rows])
            parts.append(
                self.predict(features, generators=generators[rows], tasks=tasks, on_estimate=on_estimate, **settings)
            )
        return {task: torch.cat([part[task] for part in parts]) for task in tasks}

    @torch.no_grad()
    def decode(
        self,
        latents: Mapping[str, Tensor],
        sizes: Sequence[tuple[int, int]],
        *,
        tile_size: int | None = None,
        threshold: float | None = None,
        min_area: int | None = None,
    ) -> PanopticOutput:
        """Clean latents of each task (from `predict` or `sample`) as maps of the given sizes (height, width).

        Args:
            latents: of each task, one entry an image or a tile.
            sizes: of the images.
            tile_size: that of `sample`.
            threshold: instead of the pipeline's own; asked of each tile.
            min_area: instead of the pipeline's own; asked of the whole image.

        Raises:
            InputError: there are not as many latents as images or tiles.
        """
        return decode_latents(
            latents,
            sizes,
            tile_size=tile_size,
            autoencoders={task.name: self._autoencoder(task.autoencoder) for task in get_tasks(list(latents))},
            num_ids=self.num_ids,
            categories=self.config.categories,
            threshold=self.config.threshold if threshold is None else threshold,
            min_area=self.config.min_area if min_area is None else min_area,
        )

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
        tile_size: int | None = None,
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
            tile_size: instead of the pipeline's own; 0 is the whole image at once.
            batch_size: images, or tiles, at a time.

        Raises:
            InputError: an unknown task or sampler, a picture that is none.
        """
        pictures: list[Any] = list(images) if isinstance(images, list | tuple) else [images]
        generators = one_each(generator, len(pictures))
        output = PanopticOutput(categories=[dict(c) for c in self.config.categories])
        tile_size = (self.config.tile_size if tile_size is None else tile_size) or None
        counts = [count_tiles(size_of(picture), tile_size) for picture in pictures]
        groups = list(fill_batches(zip(pictures, generators, counts), lambda job: job[2], batch_size))
        batches = sum(-(-sum(count for *_, count in group) // batch_size) for group in groups)
        with self.progress_bar(total=batches * num_inference_steps) as bar:
            for group in groups:
                chosen = [picture for picture, _, _ in group]
                latents = self.sample(
                    chosen,
                    generators=[stream for _, stream, _ in group],
                    tile_size=tile_size,
                    batch_size=batch_size,
                    tasks=tasks,
                    num_inference_steps=num_inference_steps,
                    sampler=sampler,
                    callback=lambda *_: bar.update(),
                )
                sizes = [size_of(picture) for picture in chosen]
                output.extend(self.decode(latents, sizes, tile_size=tile_size, threshold=threshold, min_area=min_area))
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
        """Complete a partly known segmentation (see `inpainting`); known pixels keep their ids exactly.

        Hidden pixels take known ids (a segment grows) or the lowest unused ids (a segment appears).

        Args:
            features: of one image, from `encode_image`.
            ids: whole numbers from 0 at the image's own size, 0 is void; at most `num_ids - 1` known segments.
            known: False where the model is to answer.
            num_inference_steps: denoising steps.
            num_candidates: different answers, in one batch.
            generator: a generator, or one for each candidate; None is torch's global one.
            sampler: None is "ddpm", whose fresh noise at every step suits inpainting best.
            resamplings: how often each step is done, going back up in noise in between (RePaint); 1 is the plain loop.
            threshold: hidden pixels whose largest softmax value is below it become void; 0 answers everywhere.
            min_area: new segments with fewer pixels join the nearest segment; None: the pipeline's own.
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
