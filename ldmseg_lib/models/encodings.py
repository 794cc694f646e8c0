"""How a map of ids becomes the continuous input of the mask autoencoder (supplement B, "Encoding Panoptic Maps").

An encoding is a codebook: one vector in [-1, 1]^C for each id, the zero vector for void. Encoding looks vectors up;
decoding takes the nearest one. The autoencoder's output is one logit per id whatever the encoding of its input.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.errors import InputError
from ..core.randomness import torch_generator


def _bits(num_ids: int) -> Tensor:
    """Binary digits, least significant first, as -1 and 1 (supplement B: 8 channels for the integers 0..255)."""
    digits = max(1, math.ceil(math.log2(num_ids)))
    ids = torch.arange(num_ids)[:, None]
    return ((ids >> torch.arange(digits)) & 1).float() * 2 - 1


def _colors(num_ids: int) -> Tensor:
    """Equidistant colours: a lattice in RGB, 8 x 8 x 4 levels for 256 ids.

    The supplement asks for 256 equidistant colours and gives no formula. A lattice whose levels are powers of two has
    exactly as many points as ids; red gets the finest levels. An even number of levels never meets the zero vector.
    """
    digits = max(1, math.ceil(math.log2(num_ids)))
    red, green = math.ceil(digits / 3), math.ceil((digits - 1) / 3)
    ids = torch.arange(num_ids)
    channels = [ids % 2**red, (ids >> red) % 2**green, ids >> (red + green)]
    levels = [2**red, 2**green, 2 ** (digits - red - green)]
    # a channel of one level stays 0
    scaled = [c / max(n - 1, 1) * 2 - min(n - 1, 1) for c, n in zip(channels, levels, strict=True)]
    return torch.stack(scaled, dim=1)


def _positional(num_ids: int) -> Tensor:
    """NeRF's positional embedding in 8 dimensions: sin and cos of 2^l pi u for l = 0..3 (supplement B).

    u = 2 (id + 1/2) / num_ids - 1 lies inside (-1, 1), so that the first and the last id differ: at u = -1 and u = 1
    all sines and cosines are equal.
    """
    u = 2 * (torch.arange(num_ids) + 0.5) / num_ids - 1
    angles = math.pi * 2.0 ** torch.arange(4) * u[:, None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _cube_colors(num_ids: int) -> Tensor:
    """Colours picked evenly from the smallest cubic lattice that has enough: 256 of 7 x 7 x 7 for 256 ids.

    The other reading of "equidistant": equally many levels in each channel. Mid grey is the zero vector and left out.
    """
    levels = 2
    while levels**3 - levels % 2 < num_ids:
        levels += 1
    points = torch.cartesian_prod(*[torch.linspace(-1, 1, levels)] * 3)
    points = points[points.norm(dim=1) > 1 / levels]
    return points[torch.arange(num_ids) * len(points) // num_ids]


def _random_colors(num_ids: int) -> Tensor:
    """Colours drawn uniformly from the RGB cube, the same ones each time."""
    return torch.rand(num_ids, 3, generator=torch_generator("colors_random")) * 2 - 1


def _hue_colors(num_ids: int) -> Tensor:
    """Equidistant colours on the circle of pure hues, from red over green and blue."""
    hue = 6 * torch.arange(num_ids) / num_ids
    channels = [(hue - 3).abs() - 1, 2 - (hue - 2).abs(), 2 - (hue - 4).abs()]
    return torch.stack(channels, dim=1).clamp(0, 1) * 2 - 1


def _grey_colors(num_ids: int) -> Tensor:
    """Equidistant greys; as evenly spaced 24-bit numbers have equal bytes, 256 of them are exactly these."""
    # an even number of levels never meets the zero vector
    return torch.linspace(-1, 1, num_ids + num_ids % 2)[:num_ids, None].repeat(1, 3)


# The three of Table S1, then other palettes for the colours.
_CODEBOOKS: dict[str, Callable[[int], Tensor]] = {
    "bits": _bits,
    "colors": _colors,
    "positional": _positional,
    "colors_cube": _cube_colors,
    "colors_random": _random_colors,
    "colors_hue": _hue_colors,
    "colors_grey": _grey_colors,
}


class Encoding:
    """Ids 0..num_ids-1 as vectors in [-1, 1]^num_channels, by a codebook of shape [num_ids, num_channels]."""

    def __init__(self, codebook: Float[Tensor, "num_ids channels"]) -> None:
        self.codebook = codebook

    @property
    def num_ids(self) -> int:
        """How many ids there are, void included."""
        return self.codebook.shape[0]

    @property
    def num_channels(self) -> int:
        """Channels of an encoded map."""
        return self.codebook.shape[1]

    def encode(
        self, ids: Int[Tensor, "batch height width"], void_id: int = 0
    ) -> Float[Tensor, "batch {self.num_channels} height width"]:
        """The vector of each pixel's id; zero in every channel where the id is `void_id`.

        Raises:
            InputError: an id is negative or not below num_ids.
        """
        if ids.numel() and (ids.min() < 0 or ids.max() >= self.num_ids):
            raise InputError(
                f"ids reach from {int(ids.min())} to {int(ids.max())}, but this encoding has room for"
                f" 0..{self.num_ids - 1}; raise num_ids"
            )
        return self._table(void_id, ids.device)[ids].permute(0, 3, 1, 2).contiguous()

    def decode(
        self, x: Float[Tensor, "batch {self.num_channels} height width"], void_id: int = 0
    ) -> Int[Tensor, "batch height width"]:
        """The id whose vector is nearest to each pixel's, `void_id` standing for the zero vector."""
        table = self._table(void_id, x.device)
        # |x - c|^2 = |x|^2 - 2 x.c + |c|^2, and |x|^2 is the same for every c
        scores = torch.einsum("bchw,nc->bnhw", x.float(), table) - table.square().sum(1)[:, None, None] / 2
        return scores.argmax(dim=1)

    def _table(self, void_id: int, device: torch.device) -> Tensor:
        table = self.codebook.clone()
        if 0 <= void_id < self.num_ids:
            table[void_id] = 0
        return table.to(device)


def get_encoding(name: str, num_ids: int = 256) -> Encoding:
    """The encoding `name` for ids 0..num_ids-1: "bits", "colors", "positional", or colours of another palette:
    "colors_cube", "colors_random", "colors_hue", "colors_grey".

    Raises:
        InputError: unknown name, or fewer than two ids.

    Example:
        >>> import torch
        >>> from ldmseg_lib import get_encoding
        >>> encoding = get_encoding("bits", num_ids=4)
        >>> ids = torch.tensor([[[1, 2, 3]]])  # [batch, height, width]
        >>> encoding.encode(ids).shape  # one channel per bit
        torch.Size([1, 2, 1, 3])
        >>> encoding.decode(encoding.encode(ids))
        tensor([[[1, 2, 3]]])
    """
    if name not in _CODEBOOKS:
        raise InputError(f"unknown encoding {name!r}; valid ones are {', '.join(_CODEBOOKS)}")
    if num_ids < 2:
        raise InputError(f"an encoding needs at least 2 ids (void and one segment), not {num_ids}")
    return Encoding(_CODEBOOKS[name](num_ids))
