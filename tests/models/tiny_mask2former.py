"""A Mask2Former of the smoke profile's size with random weights: its predictions mean nothing."""

from typing import Any

import torch
from transformers import Dinov2Config, Dinov2Model, ViTMAEConfig, ViTMAEModel

from ldmseg_lib.core.profiles import Profile
from ldmseg_lib.models.mask2former import Backbone, ViTMask2Former, build_mask2former

CATEGORIES = [
    {"id": 7, "name": "box", "isthing": 1},
    {"id": 3, "name": "sky", "isthing": 0},
    {"id": 9, "name": "cone", "isthing": 1},
]
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}


def tiny_backbone(kind: str = "mae") -> Backbone:
    """A ViT of two layers with random weights, "mae" or "dinov2"."""
    torch.manual_seed(0)
    if kind == "dinov2":
        return Dinov2Model(Dinov2Config(**SHAPE)).eval()
    return ViTMAEModel(ViTMAEConfig(**SHAPE, intermediate_size=64, mask_ratio=0.75)).eval()


def tiny_mask2former(kind: str = "mae", **settings: Any) -> ViTMask2Former:
    """The smoke profile's baseline; `settings` are overrides of its section."""
    profile = Profile.load("smoke", {f"mask2former.{name}": value for name, value in settings.items()})
    model = build_mask2former(
        profile.mask2former, tiny_backbone(kind), categories=CATEGORIES, image_size=32, input_size=32
    )
    return model.eval()
