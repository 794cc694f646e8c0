"""Random looks at images for training without labels: a crop, resized, mirrored or not, in slightly other colours."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

RATIO = (3 / 4, 4 / 3)
COLOUR_CHANGE = 0.3
"""Brightness, contrast and saturation are multiplied by 1 - this to 1 + this; hue stays, as it tells classes apart."""


def random_views(
    images: Float[Tensor, "batch 3 height width"],
    generators: Sequence[torch.Generator],
    size: int,
    *,
    area: tuple[float, float],
) -> Float[Tensor, "batch 3 size size"]:
    """One view of each image, RGB in [0, 1].

    Args:
        images: RGB in [0, 1].
        generators: one an image; each is drawn from.
        size: side of the views in pixels.
        area: least and largest share of the image that a view shows.
    """
    draws = torch.stack([torch.rand(8, generator=generator) for generator in generators]).to(images.device)
    share, stretch, x, y, flip, *colours = draws.T
    shown = area[0] + (area[1] - area[0]) * share
    ratio = RATIO[0] * (RATIO[1] / RATIO[0]) ** stretch
    width, height = (shown * ratio).sqrt().clamp(max=1.0), (shown / ratio).sqrt().clamp(max=1.0)
    theta = images.new_zeros(len(images), 2, 3)
    theta[:, 0, 0] = torch.where(flip < 0.5, -width, width)
    theta[:, 1, 1] = height
    theta[:, 0, 2], theta[:, 1, 2] = (1 - width) * (2 * x - 1), (1 - height) * (2 * y - 1)
    grid = F.affine_grid(theta, [len(images), 3, size, size], align_corners=False)
    views = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    brightness, contrast, saturation = (
        (1 + COLOUR_CHANGE * (2 * colour - 1))[:, None, None, None] for colour in colours
    )
    views = views * brightness
    views = (views - views.mean((1, 2, 3), keepdim=True)) * contrast + views.mean((1, 2, 3), keepdim=True)
    grey = views.mean(1, keepdim=True)
    return ((views - grey) * saturation + grey).clamp(0, 1)
