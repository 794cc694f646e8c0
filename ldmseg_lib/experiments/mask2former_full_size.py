"""The paper's baselines at full size with random weights: for time and memory, which do not depend on the weights."""

import torch
from transformers import Dinov2Config, Dinov2Model, ViTMAEConfig, ViTMAEModel

from ..core.errors import InputError
from ..core.profiles import Profile
from ..models.mask2former import Backbone, ViTMask2Former, build_mask2former

BACKBONES = ("mae", "dinov2")
# facebook/vit-mae-base and facebook/dinov2-base, config.json
_MAE = {"image_size": 224, "patch_size": 16}
_DINOV2 = {"image_size": 518, "patch_size": 14}
_TINY = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
# COCO panoptic: 80 things, 53 stuff.
_THINGS, _CLASSES = 80, 133


def random_mask2former(
    backbone: str = "dinov2", *, device: torch.device | str = "cpu", tiny: bool = False
) -> ViTMask2Former:
    """The baseline of the `paper` profile, its weights random; its predictions mean nothing.

    Args:
        backbone: "mae" (ViT-B/16) or "dinov2" (ViT-B/14).
        device: where it is made.
        tiny: a network of the same kind that is a thousand times smaller, to try what is done with it.

    Raises:
        InputError: an unknown backbone.
    """
    if backbone not in BACKBONES:
        raise InputError(f"unknown backbone {backbone!r}; valid ones are {', '.join(BACKBONES)}")
    shape = {"channels": 24, "mask_channels": 16, "feedforward": 32, "heads": 2} if tiny else {}
    profile = Profile.load("paper", {f"mask2former.{name}": value for name, value in shape.items()})
    settings = profile.mask2former
    vit: Backbone
    with torch.device(device):
        if backbone == "mae":
            side = 64 if tiny else settings.mae.input_size
            vit = ViTMAEModel(ViTMAEConfig(**_MAE, **(_TINY | {"intermediate_size": 48} if tiny else {})))
        else:
            side = 56 if tiny else settings.self_distilled.input_size
            vit = Dinov2Model(Dinov2Config(**_DINOV2, **(_TINY if tiny else {})))
        categories = [{"id": i, "name": str(i), "isthing": int(i <= _THINGS)} for i in range(1, _CLASSES + 1)]
        model = build_mask2former(
            settings,
            vit,
            categories=categories,
            image_size=64 if tiny else profile.data.image_size,
            input_size=side,
        )
    return model.to(device).eval()
