"""The networks of a profile without weights, and a training step of each: what `--estimate` counts.

Checkpoints that a profile names need not be there; only their configuration is, for those of the paper.
"""

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ..core.errors import InputError
from ..core.profiles import Profile
from ..models.autoencoder import MaskAutoencoder, build_autoencoder
from ..models.denoiser import Denoiser, build_denoiser, input_channels
from ..models.image_encoders import SDVAEImageEncoder, ViTImageEncoder, build_image_encoder
from ..models.mask2former import ViTMask2Former
from .full_size import UNET, VAE, VIT
from .step_cost import StepCost, checkpoint_blocks, step_cost

_STABLE_DIFFUSION, _DINO = "CompVis/stable-diffusion-v1-4", "facebook/dinov2-base"
# In place of a checkpoint: notebook 7 makes these weights itself, with the shapes of the profile's `components`.
TRAINED_HERE = "trained here"
# a COCO image's: thing and stuff classes
_CLASSES = 133


def fake_denoiser(profile: Profile, tasks: list[str]) -> Denoiser:
    """The profile's denoiser; that of Stable Diffusion by its known shape, or by a folder's config.json."""
    source = profile.denoiser.pretrained
    if source is None:
        return build_denoiser(profile, tasks=tasks)
    if source == _STABLE_DIFFUSION:
        config = dict(UNET)
    else:
        try:
            config = dict(UNet2DConditionModel.load_config(source, subfolder="unet"))
        except (OSError, ValueError) as error:
            raise InputError(f"denoiser.pretrained {source!r}: its configuration cannot be read ({error})") from error
    latents, features = profile.autoencoder.latent_channels, profile.image_encoder.out_channels
    affinity = profile.denoiser.affinity_channels
    return Denoiser(
        unet_config=config | {"in_channels": input_channels(latents, features, affinity=affinity is not None)},
        tasks=tasks,
        latent_channels=latents,
        image_channels=features,
        self_condition=profile.diffusion.self_condition_probability > 0,
        affinity_channels=affinity,
        train_time_embedding=profile.denoiser.train_time_embedding,
    )


def fake_image_encoder(profile: Profile) -> Any:
    """The profile's image encoder; that of a named checkpoint by its known shape."""
    settings = profile.image_encoder
    if settings.kind == "small":
        return build_image_encoder(profile)
    if settings.kind == "sd_vae":
        small = profile.components.image_autoencoder
        width = {"block_out_channels": small.channels, "layers_per_block": small.layers_per_block}
        blocks = {"down_block_types": ["DownEncoderBlock2D"] * len(small.channels)}
        blocks |= {"up_block_types": ["UpDecoderBlock2D"] * len(small.channels)}
        groups = {"norm_num_groups": min(32, *small.channels)}
        trained_here = settings.pretrained == TRAINED_HERE
        return SDVAEImageEncoder(vae_config=VAE | width | blocks | groups if trained_here else VAE)
    if settings.pretrained == TRAINED_HERE:
        shape = profile.components.vit
        config = {
            "hidden_size": shape.hidden_size,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "patch_size": shape.patch_size,
            "image_size": shape.input_size,
        }
        return ViTImageEncoder(backbone_config=config, out_channels=shape.out_channels, input_size=shape.input_size)
    if settings.pretrained not in (None, _DINO):
        raise InputError(f"image_encoder.pretrained {settings.pretrained!r}: only the shape of {_DINO} is known here")
    return ViTImageEncoder(
        backbone_config=VIT,
        out_channels=settings.out_channels,
        input_size=settings.input_size or VIT["image_size"],
        layer=-1 if settings.layer is None else settings.layer,
        train_backbone=settings.trainable,
    )


def coded_maps(autoencoder: MaskAutoencoder, batch: int, size: int) -> Tensor:
    """What the encoder gets of a batch of maps: encoding one would look at its ids, and fake tensors have none."""
    return torch.zeros(batch, autoencoder.encoding.num_channels if autoencoder.encoding else 1, size, size)


class DiffusionNetworks:
    """Autoencoder, image encoder and denoiser, and what is done with them in training and in sampling."""

    def __init__(self, profile: Profile, tasks: list[str], *, checkpointing: bool) -> None:
        self.profile = profile
        self.autoencoder = build_autoencoder(profile).requires_grad_(False)
        self.image_encoder, self.denoiser = fake_image_encoder(profile), fake_denoiser(profile, tasks)
        if not self.image_encoder.trainable:
            self.image_encoder.requires_grad_(False)
        if checkpointing:
            checkpoint_blocks(self.denoiser.unet)
        self.denoiser.train()
        self.all = nn.ModuleDict(
            {"autoencoder": self.autoencoder, "image_encoder": self.image_encoder, "denoiser": self.denoiser}
        )

    def inputs(self, batch: int) -> tuple[Tensor, Tensor]:
        """Images and encoded id maps."""
        size = self.profile.data.image_size
        return torch.zeros(batch, 3, size, size), coded_maps(self.autoencoder, batch, size)

    def predict(self, latents: Tensor, features: Tensor) -> Tensor:
        """One evaluation of the denoiser."""
        numbers = torch.zeros(len(latents), dtype=torch.int64)
        return self.denoiser(latents, features, torch.zeros_like(latents), numbers, numbers)

    def encode(self, images: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Latents of the maps and features of the images."""
        with torch.no_grad():
            latents = self.autoencoder.encoder(maps).chunk(2, dim=1)[0].float()
        return latents, self.image_encoder(images, tuple(latents.shape[-2:]))

    def step(self, batch: int, *, precision: str, self_condition: bool) -> StepCost:
        """A training step: both encoders, the denoiser for self-conditioning, and again with gradients."""
        images, maps = self.inputs(batch)

        def work() -> None:
            latents, features = self.encode(images, maps)
            if self_condition:
                with torch.no_grad():
                    latents = self.predict(latents, features).float()
            self.predict(latents, features).float().square().mean().backward()

        return step_cost(self.all, work, precision=precision, inputs=(images, maps))

    @torch.no_grad()
    def forward(self, batch: int, *, precision: str) -> StepCost:
        """One evaluation of the denoiser alone, without gradients."""
        images, maps = self.inputs(batch)
        latents, features = self.encode(images, maps)
        inputs = (latents, features)
        return step_cost(self.all, lambda: self.predict(*inputs), precision=precision, inputs=inputs)

    @torch.no_grad()
    def around(self, batch: int, *, precision: str) -> StepCost:
        """What a prediction takes beside the denoiser: the image encoder and the decoder."""
        images, maps = self.inputs(batch)

        def work() -> None:
            latents, _ = self.encode(images, maps)
            self.autoencoder.from_latents(latents)

        return step_cost(self.all, work, precision=precision, inputs=(images, maps))


def autoencoder_step(autoencoder: MaskAutoencoder, *, image_size: int, precision: str, batch: int = 1) -> StepCost:
    """A training step of the mask autoencoder, or of the depth autoencoder; the loss at points is left out."""
    maps = coded_maps(autoencoder, batch, image_size)

    def work() -> None:
        mean, logvar = autoencoder.encoder(maps).chunk(2, dim=1)
        latents = mean + (0.5 * logvar).exp() * torch.zeros_like(mean)
        autoencoder.decode(latents).float().square().mean().backward()

    return step_cost(nn.ModuleDict({"autoencoder": autoencoder}), work, precision=precision, inputs=[maps])


def _backbone_config(profile: Profile, kind: str) -> dict[str, Any]:
    """Of a named checkpoint, both of which are ViTs of base size, or of the ViT that the profile trains itself."""
    settings = profile.mask2former
    if (settings.mae if kind == "mae" else settings.self_distilled).pretrained is not None:
        return {"image_size": 224} if kind == "mae" else VIT
    shape: Any = settings.mae if kind == "mae" else profile.components.vit
    return {
        "image_size": shape.input_size,
        "patch_size": shape.patch_size,
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        **({"intermediate_size": 4 * shape.hidden_size} if kind == "mae" else {"mlp_ratio": 4}),
    }


def mask2former_step(profile: Profile, kind: str, *, precision: str, batch: int = 1) -> tuple[ViTMask2Former, StepCost]:
    """The baseline from a ViT of base size, "mae" or "dinov2", and a training step; the matching is left out."""
    settings, size = profile.mask2former, profile.data.image_size
    source = settings.mae if kind == "mae" else settings.self_distilled
    model = ViTMask2Former(
        backbone_kind=kind,
        backbone_config=_backbone_config(profile, kind),
        categories=[{"id": i, "name": str(i), "isthing": 1} for i in range(1, _CLASSES + 1)],
        image_size=size,
        input_size=source.input_size or size,
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
    images = torch.zeros(batch, 3, size, size)

    def work() -> None:
        sum(output.float().square().mean() for output in model(images)).backward()

    return model, step_cost(nn.ModuleDict({"mask2former": model}), work, precision=precision, inputs=[images])
