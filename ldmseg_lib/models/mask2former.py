"""Mask2Former on a plain vision transformer (supplement A, "Mask2Former Baselines").

A plain ViT has one feature map. The neck makes maps of several resolutions out of it, as ViTDet's simple feature
pyramid does (Li et al., ECCV 2022); the mask decoder is transformers' own (Cheng et al., CVPR 2022). The supplement
states 6 masked-attention layers and 128 queries, and neither the neck's widths nor the image size.
"""

from typing import Any, Literal, TypeAlias

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Dinov2Config, Dinov2Model, Mask2FormerConfig, ViTMAEConfig, ViTMAEModel
from transformers.models.mask2former.modeling_mask2former import Mask2FormerTransformerModule

from ..core.errors import InputError
from ..core.profiles import Mask2FormerProfile
from .image_encoders import IMAGENET_MEAN, IMAGENET_STD, Images
from .safetensors_model import SafetensorsModel

Backbone: TypeAlias = ViTMAEModel | Dinov2Model


class _ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map [batch, channels, rows, columns]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SimpleFeaturePyramid(nn.Module):
    """Maps at several multiples of a ViT's grid, each made from its last map alone.

    Args:
        width: channels of the ViT.
        channels: of the maps at 1/2, 1 and 2.
        finest_channels: of a map at 4; None: there is none.
    """

    def __init__(self, *, width: int, channels: int, finest_channels: int | None = None) -> None:
        super().__init__()
        half, quarter = width // 2, width // 4
        ways: dict[float, tuple[list[nn.Module], int]] = {
            0.5: ([nn.MaxPool2d(2)], width),
            1: ([], width),
            2: ([nn.ConvTranspose2d(width, half, 2, stride=2)], half),
            4: (
                [
                    nn.ConvTranspose2d(width, half, 2, stride=2),
                    _ChannelNorm(half),
                    nn.GELU(),
                    nn.ConvTranspose2d(half, quarter, 2, stride=2),
                ],
                quarter,
            ),
        }
        self.maps = nn.ModuleList()
        for scale, (layers, found) in ways.items():
            made = finest_channels if scale == 4 else channels
            if made is not None:
                layers += [nn.Conv2d(found, made, 1, bias=False), _ChannelNorm(made)]
                layers += [nn.Conv2d(made, made, 3, padding=1, bias=False), _ChannelNorm(made)]
                self.maps.append(nn.Sequential(*layers))

    def forward(self, grid: Float[Tensor, "batch width rows columns"]) -> list[Tensor]:
        """Maps [batch, channels, rows * multiple, columns * multiple], the coarsest first."""
        return [layers(grid) for layers in self.maps]


class ViTMask2Former(SafetensorsModel):
    """Queries, each with a class and a mask, from an image.

    Args:
        backbone_kind: "mae" (transformers' ViTMAEModel) or "dinov2" (its Dinov2Model).
        backbone_config: configuration of that model.
        categories: COCO category dicts; the class indices 1, 2, ... of this project are labels 0, 1, ... here.
        image_size: side in pixels of the square that images are resized to.
        input_size: side that the ViT sees of it, a multiple of twice the patch size.
        channels: width of the decoder, and of the maps that it attends to.
        mask_channels: width of the finest map, and length of the mask embeddings.
        feedforward: hidden width of the decoder's feed-forward layers.
        heads: of the decoder's attention.
        layers: masked-attention layers.
        queries: number of queries.
        finest: resolution of the mask features, as a multiple of the ViT's grid.
        threshold: queries whose class is less probable are dropped in post-processing.
        overlap: share of a query's mask that must be left to it beside the other queries.
    """

    @register_to_config
    def __init__(
        self,
        *,
        backbone_kind: Literal["mae", "dinov2"] = "mae",
        backbone_config: dict[str, Any] | None = None,
        categories: list[dict[str, Any]] | None = None,
        image_size: int = 512,
        input_size: int = 512,
        channels: int = 256,
        mask_channels: int = 256,
        feedforward: int = 2048,
        heads: int = 8,
        layers: int = 6,
        queries: int = 128,
        finest: int = 4,
        threshold: float = 0.8,
        overlap: float = 0.8,
    ) -> None:
        super().__init__()
        self.backbone = _backbone(backbone_kind, backbone_config or {})
        vit = self.backbone.config
        if input_size % (2 * vit.patch_size):
            raise InputError(
                f"input_size {input_size} of the {backbone_kind} backbone is no multiple of twice its patch size "
                f"{vit.patch_size}; give {2 * vit.patch_size * max(1, round(input_size / 2 / vit.patch_size))}"
            )
        self.neck = SimpleFeaturePyramid(
            width=vit.hidden_size, channels=channels, finest_channels=mask_channels if finest == 4 else None
        )
        self.mask_projection = nn.Conv2d(mask_channels if finest == 4 else channels, mask_channels, 1)
        decoder = Mask2FormerConfig(
            hidden_dim=channels,
            feature_size=channels,
            mask_feature_size=mask_channels,
            dim_feedforward=feedforward,
            num_attention_heads=heads,
            # transformers builds one layer less than it is told
            decoder_layers=layers + 1,
            num_queries=queries,
            dropout=0.0,
        )
        self.decoder = Mask2FormerTransformerModule(in_features=channels, config=decoder)
        for weight in self.decoder.decoder.layers.parameters():
            if weight.dim() > 1:
                nn.init.xavier_uniform_(weight)
        self.class_head = nn.Linear(channels, len(categories or []) + 1)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def forward(
        self, images: Images
    ) -> tuple[Float[Tensor, "stages batch queries labels"], Float[Tensor, "stages batch queries rows columns"]]:
        """Class logits (the last label is "no object") and mask logits after each stage, of images in [0, 1].

        There are `layers` + 1 stages: the first is that of the learned queries, the last is the result.
        """
        maps = self.neck(self.grid(images))
        output = self.decoder(maps[:3], self.mask_projection(maps[-1]))
        states = torch.stack(output.intermediate_hidden_states).transpose(1, 2)
        return self.class_head(states), torch.stack(output.masks_queries_logits)

    def grid(self, images: Images) -> Float[Tensor, "batch width rows columns"]:
        """The ViT's patch tokens of images in [0, 1], as a map."""
        side = self.config.input_size
        if images.shape[-2:] != (side, side):
            images = F.interpolate(images, size=(side, side), mode="bicubic", align_corners=False, antialias=True)
        pixels = (images - self.mean) / self.std
        rows = side // self.backbone.config.patch_size
        if isinstance(self.backbone, ViTMAEModel):
            # the model shuffles its patches by this noise, even when it drops none
            order = torch.arange(rows * rows, device=pixels.device, dtype=torch.float32).expand(len(pixels), -1)
            hidden = self.backbone(pixels, noise=order, interpolate_pos_encoding=True).last_hidden_state
        else:
            hidden = self.backbone(pixels).last_hidden_state
        return hidden[:, 1:].transpose(1, 2).unflatten(2, (rows, rows))


def _backbone(kind: str, config: dict[str, Any]) -> Backbone:
    if kind == "mae":
        return ViTMAEModel(ViTMAEConfig(**{**config, "mask_ratio": 0.0}))
    if kind == "dinov2":
        model = Dinov2Model(Dinov2Config(**config))
        # it serves masked pretraining alone; without gradient it must not count as trainable
        model.embeddings.mask_token.requires_grad_(False)
        return model
    raise InputError(f"a backbone is 'mae' or 'dinov2', not {kind!r}")


def build_mask2former(
    settings: Mask2FormerProfile,
    backbone: Backbone,
    *,
    categories: list[dict[str, Any]],
    image_size: int,
    input_size: int,
) -> ViTMask2Former:
    """The profile's baseline around a pretrained `backbone`, whose weights are copied; everything else is random."""
    model = ViTMask2Former(
        backbone_kind="mae" if isinstance(backbone, ViTMAEModel) else "dinov2",
        backbone_config=backbone.config.to_diff_dict(),
        categories=categories,
        image_size=image_size,
        input_size=input_size,
        channels=settings.channels,
        mask_channels=settings.mask_channels,
        feedforward=settings.feedforward,
        heads=settings.heads,
        layers=settings.layers,
        queries=settings.queries,
        finest=settings.finest,
        threshold=settings.threshold,
        overlap=settings.overlap,
    )
    model.backbone.load_state_dict(backbone.state_dict())
    return model
