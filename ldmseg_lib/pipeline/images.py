"""What counts as an image, and the square that networks see of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ..core.errors import InputError
from ..data.pixels import eight_bits, upright_rgb, upright_size
from ..models.affinity import Affinity

Picture = Image.Image | np.ndarray | Tensor
"""A PIL image, an array [H, W, 3] (or [H, W], or with alpha) of uint8 or uint16, or a float tensor [3, H, W] in [0, 1].

A PIL image is read as the data set reads its file: 16 bits are scaled, alpha is dropped, and a camera's EXIF rotation
is applied, so that results have the size of the upright picture.
"""


@dataclass(frozen=True)
class ImageFeatures:
    """What the denoiser needs of one or more images: latents [batch, channels, h, w], and the images' own sizes.

    Example:
        >>> import torch
        >>> from ldmseg_lib import LDMSegPipeline
        >>> pipeline = LDMSegPipeline.from_pretrained("embedded")
        >>> features = pipeline.encode_image([torch.rand(3, 48, 64), torch.rand(3, 64, 64)])
        >>> len(features), features.sizes
        (2, [(48, 64), (64, 64)])
        >>> features.take([1, 1]).sizes  # the second image twice
        [(64, 64), (64, 64)]
    """

    latents: Float[Tensor, "batch channels rows columns"]
    sizes: list[tuple[int, int]]
    affinity: Affinity | None = None  # of a denoiser with affinity pooling

    def __len__(self) -> int:
        return len(self.sizes)

    def take(self, places: Sequence[int]) -> "ImageFeatures":
        """Those of the images at `places`, each as often as it stands there."""
        rows = list(places)
        affinity = None if self.affinity is None else self.affinity[rows]
        return ImageFeatures(self.latents[rows], [self.sizes[row] for row in rows], affinity)


def as_rgb(picture: Picture) -> Image.Image:
    """An image as 8-bit RGB.

    Raises:
        InputError: it is none, or its type, shape or range is another; the message says what is wrong with it.
    """
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
        if picture.dtype not in (np.uint8, np.uint16) or not shape_fits or not picture.size:
            raise InputError(f"an image array must be uint8 [height, width, 3], not {picture.dtype} {picture.shape}")
        picture = Image.fromarray(eight_bits(picture) if picture.dtype == np.uint16 else picture)
    if not isinstance(picture, Image.Image):
        raise InputError(f"an image must be a PIL image, an array or a tensor, not {type(picture).__name__}")
    return Image.fromarray(upright_rgb(picture))


def as_list(images: Any) -> list[Any]:
    """The pictures of a list, tuple or batch (an array or tensor of four dimensions), or the one picture."""
    batched = isinstance(images, np.ndarray | Tensor) and images.ndim == 4
    return list(images) if batched or isinstance(images, list | tuple) else [images]


def size_of(picture: Picture) -> tuple[int, int]:
    """Height and width of an image in pixels, without reading its pixels."""
    if isinstance(picture, Tensor) and picture.dim() == 3:
        return picture.shape[1], picture.shape[2]
    if isinstance(picture, np.ndarray) and picture.ndim >= 2:
        return picture.shape[0], picture.shape[1]
    return upright_size(picture if isinstance(picture, Image.Image) else as_rgb(picture))


def to_square(rgb: Image.Image, side: int) -> Float[Tensor, "3 side side"]:
    """An RGB image in [0, 1], resized by Pillow's antialiased bicubic filter; its aspect is not kept."""
    if rgb.size != (side, side):
        rgb = rgb.resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).float() / 255
