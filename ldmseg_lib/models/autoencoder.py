"""The shallow mask autoencoder: id maps to small continuous latents and back to one logit per id (paper, section 3.1).

The same network with one channel in and out compresses depth maps (supplement A, "Multi-Task Setup").
"""

import itertools
import os
from typing import NamedTuple

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float, Num
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import CheckpointError, InputError
from ..core.profiles import Profile
from .encodings import get_encoding

# diffusers looks for ModelMixin in the module of a part, to know how a pipeline loads it
from .safetensors_model import ModelMixin, SafetensorsModel  # noqa: F401

# Stable Diffusion's own factor, with which the paper scales mask latents and image latents alike.
PAPER_LATENT_SCALE = 0.18215


class LatentDistribution(NamedTuple):
    """A diagonal Gaussian over unscaled latents, both [batch, latent_channels, height / f, width / f]."""

    mean: Tensor
    logvar: Tensor

    def sample(
        self, noise: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """mean + std * noise; `noise` is standard normal and comes from the caller's generators."""
        return self.mean + (0.5 * self.logvar).exp() * noise


class ChannelLayerNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel."""

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _encoder(in_channels: int, channels: tuple[int, ...], latent_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(in_channels, channels[0], 3, padding=1), nn.SiLU()]
    for narrow, wide in itertools.pairwise(channels):
        layers += [
            nn.Conv2d(narrow, narrow, 3, padding=1),
            nn.Conv2d(narrow, wide, 3, stride=2, padding=1),
            nn.SiLU(),
        ]
    width = channels[-1]
    layers += [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(32, width, eps=1e-6), nn.SiLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, 2 * latent_channels, 3, padding=1))


def _decoder(out_channels: int, width: int, latent_channels: int, num_upscalers: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(latent_channels, width, 3, padding=1)]
    for _ in range(num_upscalers):
        layers += [nn.ConvTranspose2d(width, width, 2, stride=2), ChannelLayerNorm(width, eps=1e-6), nn.SiLU()]
    layers += [nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, out_channels, 3, padding=1)]
    return nn.Sequential(*layers)


class MaskAutoencoder(SafetensorsModel):
    """Id maps (or one continuous channel) to latents and back.

    Args:
        encoding: "bits", "colors" or "positional" for id maps; "scalar" for one channel in [-1, 1], such as depth.
        num_ids: ids 0..num_ids-1, 0 being void; the number of output logits (unused by "scalar").
        channels: encoder widths, multiples of 32 at the end; each after the first halves the resolution.
        latent_channels: channels D of the latents (paper: 4).
        num_upscalers: learned doublings in the decoder; `decode` with a size does the rest bilinearly.
        latent_scale: factor s on the mean latents, so that diffusion sees the noise-to-signal ratio it should.
        latent_std: measured standard deviation of the mean latents of the training data, for the record; None: unknown.

    Example:
        >>> import torch
        >>> from ldmseg_lib import MaskAutoencoder
        >>> autoencoder = MaskAutoencoder(num_ids=16, channels=(32, 32), num_upscalers=1)
        >>> ids = torch.randint(16, (1, 32, 32))
        >>> latents = autoencoder.encode(ids).mean
        >>> latents.shape
        torch.Size([1, 4, 16, 16])
        >>> autoencoder.decode(latents, size=(32, 32)).shape  # one logit per id
        torch.Size([1, 16, 32, 32])
    """

    @register_to_config
    def __init__(
        self,
        *,
        encoding: str = "bits",
        num_ids: int = 256,
        channels: tuple[int, ...] = (32, 64, 128, 256),
        latent_channels: int = 4,
        num_upscalers: int = 2,
        latent_scale: float = PAPER_LATENT_SCALE,
        latent_std: float | None = None,
    ) -> None:
        super().__init__()
        self.encoding = None if encoding == "scalar" else get_encoding(encoding, num_ids)
        in_channels = self.encoding.num_channels if self.encoding else 1
        self.encoder = _encoder(in_channels, tuple(channels), latent_channels)
        self.decoder = _decoder(num_ids if self.encoding else 1, channels[-1], latent_channels, num_upscalers)

    @property
    def factor(self) -> int:
        """How many pixels a side a latent cell covers (f)."""
        return 2 ** (len(self.config.channels) - 1)

    def encode_input(self, target: Num[Tensor, "batch height width"]) -> Float[Tensor, "batch channels height width"]:
        """A map as the encoder's input: encoded ids, or the scalar channel with unknown (NaN) as 0."""
        if self.encoding is not None:
            return self.encoding.encode(target)
        return torch.nan_to_num(target, nan=0.0)[:, None]

    def encode(self, target: Num[Tensor, "batch height width"]) -> LatentDistribution:
        """The latent distribution of a map: int64 ids in 0..num_ids-1, or floats in [-1, 1] for "scalar".

        Raises:
            InputError: height or width is no multiple of the factor.
        """
        if target.shape[-1] % self.factor or target.shape[-2] % self.factor:
            raise InputError(
                f"a map of {target.shape[-2]} x {target.shape[-1]} does not divide by the autoencoder's factor "
                f"{self.factor}; resize or pad it"
            )
        mean, logvar = self.encoder(self.encode_input(target).to(self.dtype)).chunk(2, dim=1)
        return LatentDistribution(mean, logvar.clamp(-30.0, 20.0))

    def decode(
        self, latents: Float[Tensor, "batch latent_channels height width"], size: tuple[int, int] | None = None
    ) -> Float[Tensor, "batch outputs out_height out_width"]:
        """Logits (or scalar values) of unscaled latents, at the decoder's resolution or bilinearly at `size`."""
        logits = self.decoder(latents.to(self.dtype))
        if size is None or tuple(logits.shape[-2:]) == tuple(size):
            return logits
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)

    def to_latents(self, target: Num[Tensor, "batch height width"]) -> Float[Tensor, "batch latent_channels h w"]:
        """The clean latents z_0 = s * mean that diffusion works on."""
        return self.encode(target).mean * self.config.latent_scale

    def from_latents(
        self, latents: Float[Tensor, "batch latent_channels h w"], size: tuple[int, int] | None = None
    ) -> Float[Tensor, "batch outputs out_height out_width"]:
        """Logits (or scalar values) of diffusion's latents z_0."""
        return self.decode(latents / self.config.latent_scale, size)


def build_autoencoder(profile: Profile, *, scalar: bool = False) -> MaskAutoencoder:
    """A freshly initialised autoencoder of the profile's shape, for id maps or for one continuous channel."""
    settings = profile.autoencoder
    return MaskAutoencoder(
        encoding="scalar" if scalar else settings.encoding,
        num_ids=profile.data.num_ids,
        channels=settings.channels,
        latent_channels=settings.latent_channels,
        num_upscalers=settings.num_upscalers,
        latent_scale=settings.latent_scale or 1.0,
    )


def load_autoencoder(profile: Profile, folder: str | os.PathLike) -> MaskAutoencoder:
    """The autoencoder of id maps that `save_pretrained` wrote to `folder`, of the shape that the profile asks for.

    Raises:
        CheckpointError: it has another encoding, width or number of ids; the message names both.
        InputError: there is none, or it is damaged.
    """
    autoencoder = MaskAutoencoder.from_pretrained(folder)
    wanted = {"num_ids": profile.data.num_ids} | {
        name: getattr(profile.autoencoder, name)
        for name in ("encoding", "channels", "latent_channels", "num_upscalers")
    }
    for name, value in wanted.items():
        theirs = autoencoder.config[name]
        if (tuple(theirs) if isinstance(theirs, list) else theirs) != value:
            key = "data.num_ids" if name == "num_ids" else f"autoencoder.{name}"
            raise CheckpointError(
                f"{folder}: an autoencoder with {name} {theirs!r}, but the profile asks for {value!r}; set {key} to it,"
                " or train another with notebook 02"
            )
    return autoencoder
