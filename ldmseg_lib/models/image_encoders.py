"""Image encoders: photographs to the feature maps that condition the denoiser. One interface for all.

`encoder(images, size)` takes RGB in [0, 1] and returns [batch, encoder.out_channels, *size], where size is that of the
mask latents. It is `encoder.project(encoder.features(images), size)`. `encoder.trainable` says whether it learns along
with the denoiser; where it is `frozen`, its `features` never change in training and can be kept (`feature_cache`).
"""

from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Dinov2Config, Dinov2Model

from ..core.errors import InputError
from ..core.profiles import Profile

# diffusers looks for ModelMixin in the module of a part, to know how a pipeline loads it
from .safetensors_model import ModelMixin, SafetensorsModel, load_pretrained  # noqa: F401

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Images = Float[Tensor, "batch 3 height width"]
Features = Float[Tensor, "batch channels rows columns"]


def _resized(features: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(features.shape[-2:]) == tuple(size):
        return features
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Features) -> Features:
        return x + self.layers(x)


class SmallImageEncoder(SafetensorsModel):
    """A small convolutional encoder, trained with the denoiser: for the embedded scenes, where no weights exist.

    Args:
        channels: widths, multiples of 8; each halves the resolution.
        out_channels: channels of the feature map.
    """

    @register_to_config
    def __init__(self, *, channels: tuple[int, ...] = (48, 96), out_channels: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for narrow, wide in zip((3, *channels[:-1]), channels, strict=True):
            layers += [nn.Conv2d(narrow, wide, 4, stride=2, padding=1), _ResidualBlock(wide)]
        width = channels[-1]
        layers += [_ResidualBlock(width), nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, out_channels, 1)]
        self.layers = nn.Sequential(*layers)
        self.out_channels = out_channels
        self.trainable, self.frozen = True, False

    def features(self, images: Images) -> Features:
        """Features at the encoder's own resolution."""
        return self.layers(images * 2 - 1)

    def project(self, features: Features, size: tuple[int, int]) -> Features:
        """Those features at `size`."""
        return _resized(features, size)

    def forward(self, images: Images, size: tuple[int, int]) -> Features:
        """Features of RGB images in [0, 1] at `size`."""
        return self.project(self.features(images), size)


class SDVAEImageEncoder(SafetensorsModel):
    """Stable Diffusion's VAE encoder: the posterior mean of 2I - 1, scaled by 0.18215. Frozen.

    Args:
        vae_config: configuration of the AutoencoderKL; its decoder is not kept.
    """

    @register_to_config
    def __init__(self, *, vae_config: dict[str, Any] | None = None) -> None:
        super().__init__()
        vae = AutoencoderKL.from_config(vae_config or {})
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv
        self.scaling_factor = vae.config.scaling_factor
        self.out_channels = vae.config.latent_channels
        self.trainable, self.frozen = False, True
        self.requires_grad_(False)

    @classmethod
    def from_vae(cls, vae: AutoencoderKL) -> "SDVAEImageEncoder":
        """The encoder half of `vae`, its weights shared."""
        config = {key: value for key, value in vae.config.items() if not key.startswith("_")}
        encoder = cls(vae_config=config)
        encoder.encoder, encoder.quant_conv = vae.encoder, vae.quant_conv
        return encoder.requires_grad_(False).eval()

    def features(self, images: Images) -> Features:
        """Scaled latent means at the VAE's own resolution."""
        moments = self.encoder(images * 2 - 1)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        return moments.chunk(2, dim=1)[0] * self.scaling_factor

    def project(self, features: Features, size: tuple[int, int]) -> Features:
        """Those means at `size`."""
        return _resized(features, size)

    def forward(self, images: Images, size: tuple[int, int]) -> Features:
        """Scaled latent means of RGB images in [0, 1] at `size`."""
        return self.project(self.features(images), size)


class ViTImageEncoder(SafetensorsModel):
    """Patch tokens of a DINOv2 vision transformer, projected to `out_channels` (supplement B, Table S3).

    The paper names ViT-B/14 with DINOv2 weights and not how it is wired; here: the hidden state `layer`, the model's
    final LayerNorm, a learned 1x1 projection, bilinear resizing to the latents' grid. The backbone is frozen unless
    `train_backbone`; the projection always learns.

    Args:
        backbone_config: configuration of transformers' Dinov2Model.
        out_channels: width of the projection.
        input_size: side in pixels to which images are resized, a multiple of the patch size.
        layer: index into the hidden states; -1 is the last.
        train_backbone: let the transformer learn too.
    """

    @register_to_config
    def __init__(
        self,
        *,
        backbone_config: dict[str, Any] | None = None,
        out_channels: int = 4,
        input_size: int = 518,
        layer: int = -1,
        train_backbone: bool = False,
    ) -> None:
        super().__init__()
        settings = Dinov2Config(**(backbone_config or {}))
        if input_size % settings.patch_size:
            raise InputError(
                f"image_encoder.input_size {input_size} is no multiple of the ViT's patch size {settings.patch_size}"
            )
        states = settings.num_hidden_layers + 1
        if not -states <= layer < states:
            raise InputError(
                f"image_encoder.layer {layer} is none of the ViT's {states} hidden states; give"
                f" {-states} to {states - 1}, -1 being the last"
            )
        self.backbone = Dinov2Model(settings)
        # the mask token serves only masked training; without gradient it must not count as trainable
        self.backbone.requires_grad_(train_backbone)
        self.backbone.embeddings.mask_token.requires_grad_(False)
        self.projection = nn.Conv2d(settings.hidden_size, out_channels, 1)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)
        self.out_channels = out_channels
        self.trainable, self.frozen = True, not train_backbone

    @classmethod
    def from_backbone(cls, backbone: Dinov2Model, **settings: Any) -> "ViTImageEncoder":
        """The encoder around a loaded `backbone`; `settings` as in the constructor."""
        encoder = cls(backbone_config=backbone.config.to_diff_dict(), **settings)
        encoder.backbone.load_state_dict(backbone.state_dict())
        return encoder

    def features(self, images: Images) -> Features:
        """Normalised patch tokens in their places, before the projection."""
        side = self.config.input_size
        images = F.interpolate(images, size=(side, side), mode="bicubic", align_corners=False, antialias=True)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.train_backbone):
            hidden = self.backbone((images - self.mean) / self.std, output_hidden_states=True).hidden_states
            tokens = self.backbone.layernorm(hidden[self.config.layer])[:, 1:]
        rows = side // self.backbone.config.patch_size
        return tokens.transpose(1, 2).unflatten(2, (rows, rows))

    def project(self, features: Features, size: tuple[int, int]) -> Features:
        """Those tokens through the learned projection, at `size`."""
        return _resized(self.projection(features), size)

    def forward(self, images: Images, size: tuple[int, int]) -> Features:
        """Projected patch features of RGB images in [0, 1] at `size`."""
        return self.project(self.features(images), size)


ImageEncoder = SmallImageEncoder | SDVAEImageEncoder | ViTImageEncoder
KINDS = ("small", "sd_vae", "vit")


def build_image_encoder(profile: Profile) -> ImageEncoder:
    """The profile's image encoder; weights come from `image_encoder.pretrained`, where it names any.

    Raises:
        InputError: an unknown kind, or weights that are neither on disk nor to be fetched; the message says how to
            point to them.

    Example:
        >>> import torch
        >>> from ldmseg_lib import Profile, build_image_encoder
        >>> encoder = build_image_encoder(Profile.load("smoke"))
        >>> encoder(torch.rand(1, 3, 32, 32), size=(8, 8)).shape
        torch.Size([1, 8, 8, 8])
    """
    settings = profile.image_encoder
    if settings.kind not in KINDS:
        raise InputError(f"unknown image encoder {settings.kind!r}; valid ones are {', '.join(KINDS)}")
    if settings.kind == "small":
        return SmallImageEncoder(channels=settings.channels or (48, 96), out_channels=settings.out_channels)
    if settings.pretrained is None:
        raise InputError(
            f"image_encoder.kind {settings.kind!r} needs weights; set image_encoder.pretrained to their folder"
        )
    if settings.kind == "sd_vae":
        vae = load_pretrained(AutoencoderKL, settings.pretrained, subfolder="vae", key="image_encoder.pretrained")
        return SDVAEImageEncoder.from_vae(vae)
    backbone = load_pretrained(Dinov2Model, settings.pretrained, key="image_encoder.pretrained")
    return ViTImageEncoder.from_backbone(
        backbone,
        out_channels=settings.out_channels,
        input_size=settings.input_size or backbone.config.image_size,
        layer=-1 if settings.layer is None else settings.layer,
        train_backbone=settings.trainable,
    )
