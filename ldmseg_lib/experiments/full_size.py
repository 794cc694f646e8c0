"""The paper's networks at full size with random weights: for time and memory, which do not depend on the weights."""

from typing import Any

import torch

from ..core.errors import InputError
from ..core.profiles import Profile
from ..models.autoencoder import MaskAutoencoder
from ..models.denoiser import Denoiser, input_channels
from ..models.image_encoders import SDVAEImageEncoder, ViTImageEncoder
from ..pipeline.ldmseg import LDMSegPipeline

IMAGE_ENCODERS = ("vit", "sd_vae")
# CompVis/stable-diffusion-v1-4, unet/config.json; in_channels is 4 there, and 12 with image and self-condition.
UNET: dict[str, Any] = {
    "sample_size": 64,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
# vae/config.json there.
VAE: dict[str, Any] = {
    "sample_size": 512,
    "latent_channels": 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
# facebook/dinov2-base, config.json.
VIT: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "mlp_ratio": 4,
    "patch_size": 14,
    "image_size": 518,
}
# COCO panoptic: 80 things, 53 stuff.
_THINGS, _CLASSES = 80, 133


def random_pipeline(
    image_encoder: str = "vit", *, device: torch.device | str = "cpu", tiny: bool = False
) -> LDMSegPipeline:
    """The pipeline of the `paper` profile, its weights random; its predictions mean nothing.

    Args:
        image_encoder: "vit" (DINOv2 ViT-B/14) or "sd_vae" (the encoder of Stable Diffusion's VAE).
        device: where it is made.
        tiny: networks of the same kind that are a thousand times smaller, to try what is done with them.

    Raises:
        InputError: an unknown image encoder.
    """
    if image_encoder not in IMAGE_ENCODERS:
        raise InputError(f"unknown image encoder {image_encoder!r}; valid ones are {', '.join(IMAGE_ENCODERS)}")
    profile = Profile.load("paper")
    settings, size = profile.autoencoder, 64 if tiny else profile.data.image_size
    unet, vae, vit = dict(UNET), dict(VAE), dict(VIT)
    channels, input_size = settings.channels, profile.image_encoder.input_size
    if tiny:
        unet |= {"block_out_channels": [32] * 4, "layers_per_block": 1, "cross_attention_dim": 32, "sample_size": 8}
        vae |= {"block_out_channels": [32] * 4, "layers_per_block": 1}
        vit |= {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 42}
        channels, input_size = (16, 16, 16, 32), 42
    with torch.device(device):
        encoder: Any
        if image_encoder == "vit":
            encoder = ViTImageEncoder(
                backbone_config=vit, out_channels=profile.image_encoder.out_channels, input_size=input_size or 518
            )
        else:
            encoder = SDVAEImageEncoder(vae_config=vae)
        affinity = profile.denoiser.affinity_channels
        channels_in = input_channels(settings.latent_channels, encoder.out_channels, affinity=affinity is not None)
        denoiser = Denoiser(
            unet_config=unet | {"in_channels": channels_in},
            tasks=list(profile.diffusion.tasks),
            latent_channels=settings.latent_channels,
            image_channels=encoder.out_channels,
            self_condition=profile.diffusion.self_condition_probability > 0,
            affinity_channels=affinity,
        )
        autoencoder = MaskAutoencoder(
            encoding=settings.encoding,
            num_ids=profile.data.num_ids,
            channels=channels,
            latent_channels=settings.latent_channels,
            num_upscalers=settings.num_upscalers,
        )
    pipeline = LDMSegPipeline(
        autoencoder=autoencoder.eval(),
        denoiser=denoiser.eval(),
        image_encoder=encoder.eval(),
        image_size=size,
        categories=[{"id": i, "name": str(i), "isthing": int(i <= _THINGS)} for i in range(1, _CLASSES + 1)],
        prediction_type=profile.diffusion.prediction_type,
        sampler=profile.evaluation.sampler,
        round_estimates=profile.evaluation.round_estimates,
        threshold=profile.evaluation.threshold,
        min_area=profile.evaluation.min_area,
    )
    return pipeline.to(device)
