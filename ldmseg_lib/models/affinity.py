"""Affinity pooling: noisy latents averaged over what the image says is one segment.

A UNet learns slowly that all cells of a segment must agree, since each of them sees little of the others. Here an
embedding of the image features says of two latent cells how likely they belong together, and each cell is given the
mean of z_t over its likely segment: attention whose queries and keys come from the image and whose values are the
latents, with a kernel on distances in place of a softmax. What belongs together is learned from the denoising loss
alone. The paper has no such part; its pretrained UNet and its DINOv2 features bring grouping with them.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from .noise_levels import alphas_cumprod

MAX_KEYS = 1024
"""Cells that are averaged over; of finer latents, means of blocks of cells, so that 64 x 64 cells have a matrix of 4096
x 1024 and not of 4096 x 4096."""

Cells = Float[Tensor, "batch channels rows columns"]
Affinity = Float[Tensor, "batch cells keys"]
"""A row for each cell, a column for each key, in (0, 1); rows sum to 1."""


class AffinityPooling(nn.Module):
    """Each cell's affinity to every other, sigmoid(b - |e_i - e_j|^2) in shares of its row, and latents averaged by it.

    Args:
        image_channels: of the image features.
        channels: of the embedding e, a linear function of them.
    """

    def __init__(self, image_channels: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Conv2d(image_channels, channels, 1)
        self.offset = nn.Parameter(torch.tensor([2.0]))
        self.log_variance = nn.Parameter(torch.zeros(1))
        # kept as bits: a model in 16 bits would round the noise levels too
        self.register_buffer("_abar", alphas_cumprod().view(torch.int32), persistent=False)

    def forward(self, features: Cells) -> Affinity:
        """The affinity of each cell to each key (see `MAX_KEYS`), float32."""
        embedding = self.embedding(features.to(self.embedding.weight.dtype))
        # distances are differences of large numbers, and 16 bits would round them away
        with torch.autocast(features.device.type, enabled=False):
            cells = embedding.float()
            keys = _blocks(cells).flatten(2)
            cells = cells.flatten(2).transpose(1, 2)
            distance = cells.square().sum(2)[:, :, None] + keys.square().sum(1)[:, None] - 2 * cells @ keys
            likely = (self.offset.float() - distance.clamp(min=0)).sigmoid()
            return likely / likely.sum(2, keepdim=True)

    def pool(self, noisy: Cells, affinity: Affinity, timesteps: Int[Tensor, "batch"]) -> Cells:
        """What each cell's likely segment says: the mean m of z_t, the estimate of z_0 in it, log(n) / 3 - 1.

        n is how many cells m is worth: its noise has the variance (1 - abar) / n.

        Args:
            noisy: z_t; where there are more than affinities, they are those of all entries once, then again: the tasks
                of the same images.
            affinity: of `forward`.
            timesteps: 0..999.

        Returns:
            [batch, 2 latent_channels + 1, rows, columns], float32.
        """
        (batch, channels, rows, columns), entries = noisy.shape, len(affinity)
        with torch.autocast(noisy.device.type, enabled=False):
            # one product for all tasks of an image
            values = _blocks(noisy.float()).flatten(2).unflatten(0, (-1, entries)).permute(1, 3, 0, 2).flatten(2)
            mean = (affinity @ values).unflatten(2, (-1, channels)).permute(2, 0, 3, 1)
            mean = mean.reshape(batch, channels, rows, columns)
            worth = _worth(affinity).reshape(entries, 1, rows, columns).repeat(batch // entries, 1, 1, 1)
            estimate = mean * self._shrinkage(worth, timesteps[:, None, None, None])
            return torch.cat([mean, estimate, worth.log() / 3 - 1], dim=1)

    def expected_error(
        self, affinity: Affinity, clean: Cells, timesteps: Int[Tensor, "batch draws"]
    ) -> Float[Tensor, "batch cells"]:
        """The squared error of the estimate of z_0 in `pool`, its expectation over the noise; a mean over `timesteps`.

        The estimate is linear in z_t: its error is that of the mean of z_0, and the noise that is left.

        Args:
            affinity: of `forward`.
            clean: z_0.
            timesteps: of each sample several, 0..999.
        """
        with torch.autocast(clean.device.type, enabled=False):
            mean = affinity @ _blocks(clean.float()).flatten(2).transpose(1, 2)
            target = clean.float().flatten(2).transpose(1, 2)
            worth, levels = _worth(affinity)[:, None], timesteps[:, :, None]
            abar, shrinkage = self._levels(levels), self._shrinkage(worth, levels)
            biased = (shrinkage * abar.sqrt())[..., None] * mean[:, None] - target[:, None]
            error = biased.square().mean(-1) + shrinkage.square() * (1 - abar) / worth
            return error.mean(1)

    def _levels(self, timesteps: Int[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        return self._abar.view(torch.float32)[timesteps]

    def _shrinkage(self, worth: Tensor, timesteps: Tensor) -> Tensor:
        """What a mean over `worth` cells is multiplied by to estimate a z_0 of variance v best, v being learned."""
        abar, variance = self._levels(timesteps), self.log_variance.float().exp()
        return abar.sqrt() * variance / (abar * variance + (1 - abar) / worth)


def pooled_channels(latent_channels: int) -> int:
    """Channels of `AffinityPooling.pool`."""
    return 2 * latent_channels + 1


def _worth(affinity: Affinity) -> Float[Tensor, "batch cells"]:
    """The number of cells that a mean by `affinity` is worth; a key may stand for several."""
    return affinity.shape[1] / affinity.shape[2] / affinity.square().sum(2)


def _blocks(cells: Cells) -> Float[Tensor, "batch channels key_rows key_columns"]:
    """Means over square blocks of cells, as small as leaves at most `MAX_KEYS`."""
    side, (rows, columns) = 1, cells.shape[-2:]
    while -(-rows // side) * -(-columns // side) > MAX_KEYS:
        side *= 2
    return cells if side == 1 else F.avg_pool2d(cells, side, ceil_mode=True)
