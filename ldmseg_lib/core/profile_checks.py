"""What the types of a profile cannot say: values out of range, and values that only fail together."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .errors import ProfileError

if TYPE_CHECKING:
    from .profiles import Profile

# Whole numbers are at least 1 but for these; None: any.
_LEAST = {
    "num_ids": 2,
    "workers": 0,
    "min_train_area": 0,
    "min_area": 0,
    "train_scenes": 0,
    "val_scenes": 0,
    "num_upscalers": 0,
    "warmup_steps": 0,
    "layer": None,
}
_SHARES = {"added_share", "overlap", "semantic_fraction", "self_condition_probability", "threshold"}
_SHAPE = ("channels", "attention", "layers_per_block", "head_dim", "task_dim")


def check_profile(profile: "Profile") -> None:
    """Raise ProfileError for the first value that cannot work; the message names its key."""
    for key, name, value in _leaves(profile):
        least = _LEAST.get(name, 1)
        if type(value) is int and least is not None and value < least:
            raise ProfileError(f"profile key {key!r} must be at least {least}, not {value}")
        if name in _SHARES and not 0 <= value <= 1:
            raise ProfileError(f"profile key {key!r} must lie in 0..1, not {value}")
    _check_autoencoder(profile)
    _check_denoiser(profile)
    if not profile.diffusion.tasks or min(profile.diffusion.tasks.values()) <= 0:
        raise ProfileError("diffusion.tasks needs at least one task, each with a positive share")
    if not all(power > 0 for power in profile.diffusion.timestep_power.values()):
        raise ProfileError(f"diffusion.timestep_power {profile.diffusion.timestep_power} must be positive")
    _check_multitask(profile)
    if not all(0 < rate < 1 for rate in profile.inpainting.drop_rates):
        raise ProfileError(f"inpainting.drop_rates {profile.inpainting.drop_rates} must lie between 0 and 1")
    if not all(block > 0 for block in profile.inpainting.block_sizes):
        raise ProfileError(f"inpainting.block_sizes {profile.inpainting.block_sizes} must be positive, in latent cells")
    _check_encodings(profile)
    _check_steps(profile)
    _check_components(profile)
    _check_mask2former(profile)


def _leaves(section: Any, prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """Dotted key, last part of it, and value of every setting."""
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, field.name, value


def _check_autoencoder(profile: "Profile") -> None:
    settings, size = profile.autoencoder, profile.data.image_size
    if not settings.channels or min(settings.channels) < 1 or settings.channels[-1] % 32:
        raise ProfileError(
            f"autoencoder.channels {list(settings.channels)} must be positive and end with a multiple of 32"
            " (group normalisation)"
        )
    factor = 2 ** (len(settings.channels) - 1)
    if size % factor:
        raise ProfileError(
            f"data.image_size {size} is no multiple of the autoencoder's factor {factor}"
            f" (autoencoder.channels has {len(settings.channels)} entries)"
        )
    if 2**settings.num_upscalers > factor:
        raise ProfileError(
            f"autoencoder.num_upscalers {settings.num_upscalers} would pass the image's size; at most"
            f" {factor.bit_length() - 1}"
        )
    for name in ("latent_scale", "latent_std"):
        value = getattr(settings, name)
        if value is not None and value <= 0:
            raise ProfileError(f"profile key 'autoencoder.{name}' must be positive, not {value}")


def _check_encodings(profile: "Profile") -> None:
    settings = profile.encodings
    if not settings.seeds or len(set(settings.seeds)) < len(settings.seeds) or min(settings.seeds) < 0:
        raise ProfileError(
            f"encodings.seeds {list(settings.seeds)} must be different whole numbers from 0, at least one"
        )
    strange = [name for name in settings.palettes if not name.startswith("colors_")]
    if strange:
        raise ProfileError(
            f"encodings.palettes has {strange[0]!r}, which is no palette of its own; give colors_... ones"
        )
    factor = 2 ** (len(settings.channels) - 1)
    if not settings.channels or settings.channels[-1] % 32 or settings.image_size % factor:
        raise ProfileError(
            f"encodings.channels {list(settings.channels)} must end with a multiple of 32, and encodings.image_size"
            f" {settings.image_size} be a multiple of {factor}"
        )
    if 2**settings.num_upscalers > factor:
        raise ProfileError(f"encodings.num_upscalers {settings.num_upscalers} is more than {factor.bit_length() - 1}")


def _check_steps(profile: "Profile") -> None:
    settings = profile.denoising_steps
    for name in ("counts", "frontier_counts", "shown_counts"):
        counts = getattr(settings, name)
        if not counts or not all(1 <= count <= 1000 for count in counts):
            raise ProfileError(f"denoising_steps.{name} {list(counts)} must be numbers from 1 to 1000, at least one")
    for name, counts in (
        ("shown_counts", settings.shown_counts),
        ("trajectory_steps", (settings.trajectory_steps,)),
    ):
        missing = [count for count in counts if count not in settings.counts]
        if missing:
            raise ProfileError(
                f"denoising_steps.{name} has {missing[0]}, which is not in denoising_steps.counts; add it"
            )
    for name, samplers in (
        ("denoising_steps.samplers", settings.samplers),
        ("consistency.teacher_samplers", profile.consistency.teacher_samplers),
    ):
        if not samplers:
            raise ProfileError(f"{name} names no sampler; give at least one")


def _check_denoiser(profile: "Profile") -> None:
    settings = profile.denoiser
    for name in _SHAPE:
        value = getattr(settings, name)
        if (value is None) == (settings.pretrained is None):
            raise ProfileError(
                f"denoiser.{name} is {value!r} and denoiser.pretrained {settings.pretrained!r}; give either"
                f" `pretrained`, or the shape ({', '.join(_SHAPE)})"
            )
    if settings.channels and settings.attention and len(settings.channels) != len(settings.attention):
        raise ProfileError(
            f"denoiser.attention has {len(settings.attention)} entries and denoiser.channels"
            f" {len(settings.channels)}; give one each for every resolution"
        )


def _check_components(profile: "Profile") -> None:
    settings = profile.components
    factor = 2 ** (max(len(settings.autoencoder.channels), len(settings.other_channels)) - 1)
    if settings.image_size % factor:
        raise ProfileError(
            f"components.image_size {settings.image_size} is no multiple of the autoencoders' factor {factor}"
        )
    vit = settings.vit
    # large crops have this side, small ones half of it
    if vit.pretrained is None and vit.input_size % (2 * vit.patch_size):
        raise ProfileError(
            f"components.vit.input_size {vit.input_size} is no multiple of twice its patch_size {vit.patch_size}"
        )
    if vit.hidden_size % vit.heads:
        raise ProfileError(f"components.vit.hidden_size {vit.hidden_size} does not divide by its {vit.heads} heads")
    edges = list(settings.area_edges)
    if not edges or edges[0] != 0 or edges != sorted(set(edges)):
        raise ProfileError(f"components.area_edges {edges} must be increasing areas that begin with 0")
    if not settings.step_counts or not all(1 <= count <= 1000 for count in settings.step_counts):
        raise ProfileError(f"components.step_counts {list(settings.step_counts)} must be numbers from 1 to 1000")
    if not all(0 < rate < 1 for rate in settings.inpainting_rates) or not settings.inpainting_rates:
        raise ProfileError(f"components.inpainting_rates {list(settings.inpainting_rates)} must lie between 0 and 1")
    if settings.self_condition_probability == settings.diffusion.self_condition_probability:
        raise ProfileError(
            "components.self_condition_probability is that of components.diffusion; give another, to compare with it"
        )


def _check_multitask(profile: "Profile") -> None:
    shares = profile.multitask.tasks
    if not shares or min(shares.values()) <= 0:
        raise ProfileError("multitask.tasks needs at least one task, each with a positive share")
    for group in profile.multitask.compared:
        unknown = [task for task in group if task not in shares]
        if unknown or not group:
            raise ProfileError(
                f"multitask.compared {list(group)} must hold tasks of multitask.tasks, which are {', '.join(shares)}"
            )


def _check_mask2former(profile: "Profile") -> None:
    settings = profile.mask2former
    if settings.channels % (2 * settings.heads):
        raise ProfileError(
            f"mask2former.channels {settings.channels} must be a multiple of twice mask2former.heads {settings.heads}"
        )
    if settings.layers < 3:
        raise ProfileError(
            f"mask2former.layers {settings.layers} leaves maps unseen: each layer sees one of three; give at least 3"
        )
    mae = settings.mae
    shape = {field.name: getattr(mae, field.name) for field in dataclasses.fields(mae)}
    pretrained, side = shape.pop("pretrained"), shape.pop("input_size")
    for name, value in shape.items():
        if (value is None) == (pretrained is None):
            raise ProfileError(
                f"mask2former.mae.{name} is {value!r} and mask2former.mae.pretrained {pretrained!r}; give either"
                f" `pretrained`, or the shape and training ({', '.join(shape)})"
            )
    if mae.mask_ratio is not None and not 0 < mae.mask_ratio < 1:
        raise ProfileError(f"mask2former.mae.mask_ratio {mae.mask_ratio} must lie between 0 and 1")
    if mae.patch_size is not None and side % (2 * mae.patch_size):
        raise ProfileError(
            f"mask2former.mae.input_size {side} is no multiple of twice mask2former.mae.patch_size {mae.patch_size}"
        )
    for name in ("hidden_size", "decoder_hidden_size"):
        width = getattr(mae, name)
        if width is not None and mae.heads is not None and (width % mae.heads or width % 4):
            raise ProfileError(f"mask2former.mae.{name} {width} must be a multiple of 4 and of mask2former.mae.heads")
