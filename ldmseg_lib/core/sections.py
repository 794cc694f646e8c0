"""The main sections of a profile, typed and frozen; pydantic checks them when `ldmseg_lib.core.profiles` reads a file.

A check names the key first, without its section, which `Profile.load` puts before it.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BeforeValidator, NonNegativeInt, PositiveInt, model_validator

# The three of Table S1, and colours of other palettes (`ldmseg_lib.models.encodings`).
PaletteName = Literal["colors_cube", "colors_random", "colors_hue", "colors_grey"]
EncodingName = Literal["bits", "colors", "positional", PaletteName]
SamplerName = Literal["ddim", "ddpm", "dpmsolver++", "unipc"]


def _as_number(value: Any) -> Any:
    """Text as the number that it says: YAML reads 1e-3, without a dot, as text."""
    with suppress(ValueError):
        return float(value) if isinstance(value, str) else value
    return value


Number = Annotated[float, BeforeValidator(_as_number)]
PositiveNumber = Annotated[Number, Gt(0)]
Share = Annotated[Number, Ge(0), Le(1)]
OpenShare = Annotated[Number, Gt(0), Lt(1)]
Channels = Annotated[tuple[PositiveInt, ...], MinLen(1)]
StepCounts = Annotated[tuple[Annotated[int, Ge(1), Le(1000)], ...], MinLen(1)]


def check_channels(channels: tuple[int, ...], num_upscalers: int, image_size: int | None = None) -> None:
    """Raise ValueError unless a mask autoencoder can have these widths and learned doublings."""
    factor = 2 ** (len(channels) - 1)
    if channels[-1] % 32:
        raise ValueError(f"channels {list(channels)} must end with a multiple of 32 (group normalization)")
    if image_size is not None and image_size % factor:
        raise ValueError(f"image_size {image_size} is no multiple of {factor} (channels has {len(channels)} entries)")
    if 2**num_upscalers > factor:
        raise ValueError(f"num_upscalers {num_upscalers} exceeds the image size; give at most {len(channels) - 1}")


def check_either(section: Any, names: tuple[str, ...], what: str) -> None:
    """Raise ValueError unless `section` has either `pretrained` or all of `names`."""
    for name in names:
        value = getattr(section, name)
        if (value is None) == (section.pretrained is None):
            raise ValueError(
                f"{name} is {value!r} and pretrained {section.pretrained!r}; give either `pretrained`, or {what}"
                f" ({', '.join(names)})"
            )


@dataclass(frozen=True)
class DataProfile:
    """What the networks see. Sizes in pixels."""

    image_size: PositiveInt  # side of the square that images are resized to
    crop_size: PositiveInt | None  # side of the training crop at original resolution; None: the whole image
    num_ids: Annotated[int, Ge(2)]  # ids 0..num_ids-1 of an id map, 0 being void
    id_order: Literal["random", "position"]  # the paper gives ids at random at every visit
    unlabelled: Literal["void", "background"] | None  # what id 0 means; None: as the folder says
    min_train_area: NonNegativeInt  # smaller segments are void in training (original resolution)
    train_scenes: NonNegativeInt  # embedded data set only, as the next three
    val_scenes: NonNegativeInt
    min_things: PositiveInt
    max_things: PositiveInt
    workers: NonNegativeInt  # loader processes; 0: in the training process


@dataclass(frozen=True)
class TrainingProfile:
    """One training of the one loop."""

    steps: PositiveInt
    batch_size: PositiveInt  # images a step, over all processes and accumulation
    micro_batch_size: PositiveInt | None  # images a forward pass and process at most; None: batch_size / processes
    optimizer: Literal["adamw", "muon"]  # muon: for the matrices between a network's first and last; adamw for the rest
    learning_rate: Number
    final_learning_rate: Number  # reached at the last step by a cosine; equal to learning_rate: constant
    warmup_steps: NonNegativeInt
    weight_decay: Number
    decay_norms: bool  # also decay one-dimensional parameters (norms and biases)
    gradient_clip: Number
    precision: Literal["fp32", "fp16", "bf16"]
    gradient_checkpointing: bool
    shard: bool  # split weights, gradients and optimiser state over the processes (FSDP2), for small cards
    ema_decay: Number | None
    checkpoint_every: PositiveInt
    keep_checkpoints: PositiveInt
    log_every: PositiveInt


@dataclass(frozen=True)
class AutoencoderProfile:
    """The shallow mask autoencoder (paper, section 3.1)."""

    encoding: EncodingName
    channels: Channels  # encoder widths; each after the first halves the resolution
    latent_channels: PositiveInt
    num_upscalers: NonNegativeInt  # learned doublings of the decoder; the rest is bilinear
    latent_scale: PositiveNumber | None  # None: latent_std / std of the training latents, measured after training
    latent_std: PositiveNumber  # what the latents' standard deviation is brought to, where latent_scale is None
    num_points: PositiveInt  # sampled points of the point losses
    semantic_fraction: Share  # share of training targets that are semantic maps
    training: TrainingProfile

    @model_validator(mode="after")
    def check(self) -> Self:
        """Refuse shapes that the networks do not have."""
        check_channels(self.channels, self.num_upscalers)
        return self


@dataclass(frozen=True)
class DenoiserProfile:
    """The UNet. With `pretrained`, its shape comes from that checkpoint and the shape given here must be null."""

    pretrained: str | None  # folder or hub name in Stable Diffusion's layout
    channels: Channels | None
    attention: tuple[bool, ...] | None  # per resolution: a transformer block there
    layers_per_block: PositiveInt | None
    head_dim: PositiveInt | None
    task_dim: PositiveInt | None  # width of the task tokens
    train_time_embedding: bool
    affinity_channels: PositiveInt | None  # of the embedding of affinity pooling; None (the paper): no pooling

    @model_validator(mode="after")
    def check(self) -> Self:
        """Refuse both a checkpoint and a shape, or a part of either."""
        shape = ("channels", "attention", "layers_per_block", "head_dim", "task_dim")
        check_either(self, shape, "the shape")
        if self.channels and self.attention and len(self.channels) != len(self.attention):
            raise ValueError(
                f"attention has {len(self.attention)} entries and channels {len(self.channels)}; give one for every"
                " resolution"
            )
        return self


@dataclass(frozen=True)
class ImageEncoderProfile:
    """What turns the image into the denoiser's condition."""

    kind: Literal["small", "sd_vae", "vit"]
    pretrained: str | None  # folder or hub name of the weights; None: random (small) or made by notebook 07
    out_channels: PositiveInt
    channels: Channels | None  # widths of the small encoder
    input_size: PositiveInt | None  # side that a ViT sees
    layer: int | None  # hidden state of the ViT; -1 is the last
    trainable: bool


@dataclass(frozen=True)
class DiffusionProfile:
    """The latent diffusion model's objective."""

    tasks: Annotated[dict[str, PositiveNumber], MinLen(1)]  # task name to its share of the training samples
    prediction_type: Literal["epsilon", "sample", "v_prediction"]
    loss_weight: Literal["none", "min_snr", "x0"]  # on the noise loss: 1, min(SNR, gamma) / SNR, 1 / SNR
    snr_gamma: Number
    self_condition_probability: Share
    # p in t = 1000 (1 - (1 - u)^p) for uniform u, by task; 1 (the paper) where a task is not named, more is noisier
    timestep_power: dict[str, PositiveNumber]
    affinity_weight: Number  # in the loss, of the error with which affinity pooling alone denoises
    affinity_pretraining: TrainingProfile | None  # of image encoder and affinity, by that error alone; None: none
    training: TrainingProfile


@dataclass(frozen=True)
class EvaluationProfile:
    """How predictions are sampled, cleaned and evaluated."""

    num_images: PositiveInt | None  # the first so many of the validation split; None: all
    batch_size: PositiveInt
    sampler: Literal[SamplerName, "consistency"]
    num_inference_steps: PositiveInt
    round_estimates: bool  # each estimate of z_0 to the nearest valid map on the way; not where tables are the paper's
    threshold: Share
    min_area: NonNegativeInt  # pixels at the evaluated size
    tile_size: PositiveInt | None  # predict in overlapping tiles of this side; None: the whole image at once


@dataclass(frozen=True)
class InpaintingProfile:
    """What notebook 10 drops from known segmentations, and how it is filled in again."""

    num_images: PositiveInt | None  # the first so many of the validation split; None: all
    drop_rates: tuple[OpenShare, ...]  # shares of an image's blocks
    block_sizes: tuple[PositiveInt, ...]  # sides in latent cells
    sampler: Literal[SamplerName, "consistency"]
    num_inference_steps: PositiveInt
    resamplings: PositiveInt  # times that each step is done (RePaint); 1: the plain loop
