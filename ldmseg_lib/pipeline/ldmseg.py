"""From photographs to panoptic maps: encode the image, denoise mask latents, decode, post-process."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..core.errors import InputError
from ..diffusion.sampling import one_each
from ..diffusion.tasks import get_tasks
from ..models.autoencoder import MaskAutoencoder
from ..models.denoiser import Denoiser
from ..models.image_encoders import ImageEncoder
from .consensus import consensus_of, require_room
from .decoding import decode_latents, stuff_indices
from .denoising import DenoisingPipeline, plan_batches
from .images import ImageFeatures, Picture, as_list, as_rgb, size_of, to_square
from .inpainting import inpaint
from .output import PanopticOutput
from .tiling import count_tiles, fill_batches


class LDMSegPipeline(DenoisingPipeline):
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
        round_estimates: the default of whether each estimate of z_0 is rounded to a valid map (see `rounding`).
        threshold: the default of the softmax threshold (supplement A: 0.5).
        min_area: the default of the minimum area, in pixels of the image's own size (supplement A: 512).
        tile_size: the default of the side in pixels of the tiles that an image is cut into, for a model trained on
            crops; None: the whole image at once.
        trained_on_photographs: whether the training images were photographs.

    Example:
        >>> import torch
        >>> from ldmseg_lib import LDMSegPipeline
        >>> pipeline = LDMSegPipeline.from_pretrained("embedded")
        >>> pipeline.set_progress_bar_config(disable=True)
        >>> image = torch.rand(3, 48, 64)  # or a PIL image, or uint8 [height, width, 3]
        >>> generator = torch.Generator().manual_seed(0)
        >>> output = pipeline(image, num_inference_steps=2, generator=generator)
        >>> output.ids[0].shape, output.semantic[0].shape
        ((48, 64), (48, 64))
        >>> features = pipeline.encode_image(image)  # once per image, for any number of inpaintings
        >>> known = torch.arange(64).expand(48, 64) < 32
        >>> candidates = pipeline.inpaint(features, output.ids[0], known.numpy(), num_inference_steps=2)
        >>> candidates.ids[0].shape
        (48, 64)
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
        round_estimates: bool = False,
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
            round_estimates=round_estimates,
            threshold=threshold,
            min_area=min_area,
            tile_size=tile_size,
            trained_on_photographs=trained_on_photographs,
        )

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
        pictures = as_list(images)
        if not pictures:
            raise InputError("there is no image to encode; give at least one")
        side = self.config.image_size
        rgb = [as_rgb(picture) for picture in pictures]
        batch = torch.stack([to_square(picture, side) for picture in rgb]).to(self.device, self.image_encoder.dtype)
        cells = side // self.autoencoder.factor
        sizes = [(picture.height, picture.width) for picture in rgb]
        latents = self.image_encoder(batch, (cells, cells)).float()
        affinity = None if self.denoiser.affinity is None else self.denoiser.affinity(latents)
        return ImageFeatures(latents, sizes, affinity)

    @torch.no_grad()
    def decode(
        self,
        latents: Mapping[str, Tensor],
        sizes: Sequence[tuple[int, int]],
        *,
        tile_size: int | None = None,
        num_samples: int = 1,
        threshold: float | None = None,
        min_area: int | None = None,
    ) -> PanopticOutput:
        """Clean latents of each task (from `predict` or `sample`) as maps of the given sizes (height, width).

        Args:
            latents: of each task, one entry a sample of an image or of a tile.
            sizes: of the images.
            tile_size: that of `sample`.
            num_samples: that of `sample`; of several, the maps are their consensus (see `consensus`).
            threshold: instead of the pipeline's own; asked of each tile.
            min_area: instead of the pipeline's own; asked of the whole image.

        Raises:
            InputError: there are not as many latents as images or tiles.
        """
        min_area = self.config.min_area if min_area is None else min_area
        samples = [
            decode_latents(
                {task: values[k::num_samples] for task, values in latents.items()},
                sizes,
                tile_size=tile_size,
                autoencoders={task.name: self._autoencoder(task.autoencoder) for task in get_tasks(list(latents))},
                num_ids=self.num_ids,
                categories=self.config.categories,
                threshold=self.config.threshold if threshold is None else threshold,
                min_area=min_area,
            )
            for k in range(num_samples)
        ]
        return samples[0] if num_samples == 1 else consensus_of(samples, min_area=min_area)

    def __call__(
        self,
        images: Picture | Sequence[Picture],
        *,
        num_inference_steps: int = 50,
        tasks: Sequence[str] = ("instance", "semantic"),
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        sampler: str | None = None,
        round_estimates: bool | None = None,
        num_samples: int = 1,
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
            round_estimates: instead of the pipeline's own: whether each estimate of z_0 is rounded to a valid map.
            num_samples: of each image; the result is their consensus, and `agreement` says where they agree. Four
                samples of five steps cost one of twenty.
            threshold: instead of the pipeline's own; 0 is arg max alone.
            min_area: instead of the pipeline's own, in pixels of the image's own size.
            tile_size: instead of the pipeline's own; 0 is the whole image at once.
            batch_size: samples of images, or of tiles, at a time.

        Raises:
            InputError: an unknown task or sampler, a picture that is none, no sample or more than memory holds.
        """
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; give at least 1")
        pictures = as_list(images)
        tile_size = (self.config.tile_size if tile_size is None else tile_size) or None
        sizes = [size_of(picture) for picture in pictures]
        require_room(num_samples, max((height * width for height, width in sizes), default=0))
        output = PanopticOutput(categories=[dict(c) for c in self.config.categories])
        jobs = zip(pictures, one_each(generator, len(pictures)), sizes, strict=True)
        groups = list(fill_batches(jobs, lambda job: count_tiles(job[2], tile_size) * num_samples, batch_size))
        entries = [sum(count_tiles(size, tile_size) for *_, size in group) for group in groups]
        batches = sum(len(parts) for count in entries for _, parts in plan_batches(count, num_samples, batch_size))
        with self.progress_bar(total=batches * num_inference_steps) as bar:
            for group in groups:
                latents = self.sample(
                    [picture for picture, *_ in group],
                    generators=[stream for _, stream, _ in group],
                    tile_size=tile_size,
                    num_samples=num_samples,
                    batch_size=batch_size,
                    tasks=tasks,
                    num_inference_steps=num_inference_steps,
                    sampler=sampler,
                    round_estimates=round_estimates,
                    callback=lambda *_: bar.update(),
                )
                found = self.decode(
                    latents,
                    [size for *_, size in group],
                    tile_size=tile_size,
                    num_samples=num_samples,
                    threshold=threshold,
                    min_area=min_area,
                )
                output.extend(found)
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
        round_estimates: bool | None = None,
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
            round_estimates: instead of the pipeline's own: whether each estimate of z_0 is rounded to a valid map.
            resamplings: how often each step is done, going back up in noise in between (RePaint); 1 is the plain loop.
            threshold: hidden pixels whose largest softmax value is below it become void; 0 answers everywhere.
            min_area: new segments with fewer pixels join the nearest segment; None: the pipeline's own.
            callback: called before each step with (steps done, steps in all); may raise to cancel.
            segments: dicts of `id` and `category_id` of known segments; those that take no hidden pixel keep theirs.

        Returns:
            One entry for each candidate; its `agreement` is the share of the candidates that say the same. Classes are
            the majority of the sampled semantic map, where the model knows that task; elsewhere None, or as given in
            `segments`.

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
            round_estimates=round_estimates,
            resamplings=resamplings,
            callback=callback,
        )

    def _autoencoder(self, name: str) -> MaskAutoencoder:
        chosen = self.autoencoder if name == "mask" else self.depth_autoencoder
        if chosen is None:
            raise InputError("this pipeline has no depth autoencoder; train the depth task with notebook 08")
        return chosen
