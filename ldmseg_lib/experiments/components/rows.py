"""What notebook 07 compares, as data: which trainings there are, and in what each differs from the others.

Table S3 asks for the image encoder, the scheduler and the EMA; supplement B for the loss weight of small timesteps.
Beyond them: what is predicted, self-conditioning, the order in which ids are given to segments (the paper: at random
at every visit), and the resolution of the latents (supplement C).
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ...core.profiles import ComponentsProfile, ImageEncoderProfile, Profile

EncoderName = Literal["image_autoencoder", "vit"]

# (image encoder, sampler, averaged weights) of the rows of Table S3
TABLE_S3: tuple[tuple[EncoderName, str, bool], ...] = (
    ("image_autoencoder", "ddim", False),
    ("image_autoencoder", "ddim", True),
    ("vit", "ddim", True),
    ("vit", "ddpm", True),
)


@dataclass(frozen=True)
class Variant:
    """One training: what is not said here is as `components` of the profile says."""

    encoder: EncoderName = "vit"
    diffusion: Mapping[str, Any] = field(default_factory=dict)  # settings of the section `diffusion`
    id_order: Literal["random", "position"] = "random"
    other_latents: bool = False


@dataclass(frozen=True)
class ComponentRow:
    """One row of the table of loss components: a group, in which rows are compared, and a name in it."""

    group: str
    name: str
    variant: Variant


def component_rows(settings: ComponentsProfile) -> list[ComponentRow]:
    """The rows of the table of loss components; equal trainings may stand in several groups."""

    def weighted(prediction: str, weight: str) -> Variant:
        return Variant(diffusion={"prediction_type": prediction, "loss_weight": weight})

    own, other = settings.diffusion.self_condition_probability, settings.self_condition_probability
    rows = [
        ComponentRow("loss of small timesteps", "lowered (the paper)", weighted("epsilon", "min_snr")),
        ComponentRow("loss of small timesteps", "as it is", weighted("epsilon", "none")),
        ComponentRow("prediction", "noise (the paper)", weighted("epsilon", "min_snr")),
        ComponentRow("prediction", "x0", weighted("sample", "min_snr")),
        ComponentRow("prediction", "v", weighted("v_prediction", "min_snr")),
    ]
    if (settings.diffusion.prediction_type, settings.diffusion.loss_weight) == ("sample", "x0"):
        rows.append(ComponentRow("prediction", "x0, its own error unweighted", weighted("sample", "x0")))
    for probability in sorted({own, other}):
        name = f"on, {100 * probability:.0f} % of the samples" if probability else "off"
        changes = {"self_condition_probability": probability}
        rows.append(ComponentRow("self-conditioning", name, Variant(diffusion=changes)))
    rows += [
        ComponentRow("order of ids", "random (the paper)", Variant()),
        ComponentRow("order of ids", "by position", Variant(id_order="position")),
    ]
    return rows


def variant_profile(profile: Profile, variant: Variant, *, encoder: str) -> Profile:
    """`profile` as the training of `variant` sees it.

    Args:
        profile: with the section `components`.
        variant: what differs.
        encoder: folder or hub name of the image encoder's weights.
    """
    settings = profile.components
    shape: dict[str, Any]
    if variant.encoder == "vit":
        shape = {"kind": "vit", "out_channels": settings.vit.out_channels, "input_size": settings.vit.input_size}
    else:
        channels = settings.image_autoencoder.latent_channels
        shape = {"kind": "sd_vae", "out_channels": channels, "input_size": None}
    autoencoder = settings.autoencoder
    if variant.other_latents:
        autoencoder = dataclasses.replace(
            autoencoder, channels=settings.other_channels, num_upscalers=settings.other_num_upscalers
        )
    return dataclasses.replace(
        profile,
        data=dataclasses.replace(profile.data, image_size=settings.image_size, id_order=variant.id_order),
        autoencoder=autoencoder,
        denoiser=settings.denoiser,
        image_encoder=ImageEncoderProfile(pretrained=encoder, channels=None, layer=-1, trainable=False, **shape),
        diffusion=dataclasses.replace(settings.diffusion, **variant.diffusion),
    )
