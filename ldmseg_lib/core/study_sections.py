"""The sections of a profile that single experiments read."""

from dataclasses import dataclass, fields
from typing import Annotated, Literal, Self

from annotated_types import Ge, MinLen
from pydantic import NonNegativeInt, PositiveInt, model_validator

from .sections import (
    AutoencoderProfile,
    Channels,
    DenoiserProfile,
    DiffusionProfile,
    Number,
    OpenShare,
    PaletteName,
    PositiveNumber,
    SamplerName,
    Share,
    StepCounts,
    TrainingProfile,
    check_channels,
    check_either,
)


@dataclass(frozen=True)
class MAEProfile:
    """A plain ViT pretrained by masked autoencoding (He et al., CVPR 2022), the baseline's first backbone.

    With `pretrained`, its shape comes from that checkpoint and everything below `input_size` must be null.
    """

    pretrained: str | None  # folder or hub name of the weights; None: pretrained by notebook 09
    input_size: PositiveInt  # side in pixels that the ViT sees
    patch_size: PositiveInt | None
    hidden_size: PositiveInt | None
    layers: PositiveInt | None
    heads: PositiveInt | None
    decoder_hidden_size: PositiveInt | None  # of the decoder that is thrown away afterwards
    decoder_layers: PositiveInt | None
    mask_ratio: OpenShare | None  # share of the patches that are hidden
    training: TrainingProfile | None

    @model_validator(mode="after")
    def check(self) -> Self:
        """Refuse both a checkpoint and a shape, and patches that do not fit."""
        others = tuple(field.name for field in fields(self) if field.name not in ("pretrained", "input_size"))
        check_either(self, others, "the shape and training")
        if self.patch_size is not None and self.input_size % (2 * self.patch_size):
            raise ValueError(f"input_size {self.input_size} is no multiple of twice patch_size {self.patch_size}")
        for name in ("hidden_size", "decoder_hidden_size"):
            width = getattr(self, name)
            if width is not None and self.heads is not None and (width % self.heads or width % 4):
                raise ValueError(f"{name} {width} must be a multiple of 4 and of heads {self.heads}")
        return self


@dataclass(frozen=True)
class SelfDistilledProfile:
    """A plain ViT pretrained by self-distillation (DINOv2), the baseline's second backbone."""

    pretrained: str | None  # folder or hub name of the weights; None: the one that notebook 07 pretrained
    input_size: PositiveInt  # side in pixels that the ViT sees


@dataclass(frozen=True)
class Mask2FormerProfile:
    """The baseline: Mask2Former on plain ViTs (supplement A, "Mask2Former Baselines")."""

    mae: MAEProfile
    self_distilled: SelfDistilledProfile
    channels: PositiveInt  # width of the neck's maps and of the decoder
    mask_channels: PositiveInt  # length of the mask embeddings
    feedforward: PositiveInt
    heads: PositiveInt
    layers: PositiveInt  # masked-attention layers
    queries: PositiveInt
    finest: Literal[2, 4]  # resolution of the mask features, as a multiple of the ViT's grid
    num_points: PositiveInt  # sampled points of the matching and of each mask's losses
    class_weight: Number
    mask_weight: Number
    dice_weight: Number
    no_object_weight: Number  # of the unmatched queries in the class loss
    threshold: Share  # queries whose class is less probable are dropped
    overlap: Share  # share of a query's mask that must be left to it
    training: TrainingProfile

    @model_validator(mode="after")
    def check(self) -> Self:
        """Refuse widths and depths that the decoder does not have."""
        if self.channels % (2 * self.heads):
            raise ValueError(f"channels {self.channels} must be a multiple of twice heads {self.heads}")
        if self.layers < 3:
            raise ValueError(f"layers {self.layers} leaves maps unseen: each layer sees one of three; give at least 3")
        return self


@dataclass(frozen=True)
class MultitaskProfile:
    """What notebook 08 teaches the model of notebook 04, and what it compares the outcome with (supplement A)."""

    tasks: Annotated[dict[str, PositiveNumber], MinLen(1)]  # task name to its share of the training samples
    depth_autoencoder: TrainingProfile  # its shape is that of the mask autoencoder
    training: TrainingProfile  # of the denoiser
    compared: tuple[Annotated[tuple[str, ...], MinLen(1)], ...]  # trained apart with equally many samples
    added_steps: PositiveInt  # training steps with the task that the notebook adds itself
    added_share: Share  # that task's share of their samples
    num_images: PositiveInt | None  # the first so many of the validation split; None: all
    num_inference_steps: PositiveInt

    @model_validator(mode="after")
    def check(self) -> Self:
        """Refuse groups of unknown tasks."""
        for group in self.compared:
            if not set(group) <= self.tasks.keys():
                raise ValueError(f"compared {list(group)} must hold some of the tasks {', '.join(self.tasks)}")
        return self


@dataclass(frozen=True)
class EncodingsProfile:
    """The autoencoders of Table S1 (notebook 03), each for 256 ids; what is not here is as in `autoencoder`."""

    seeds: Annotated[tuple[NonNegativeInt, ...], MinLen(1)]  # each trains every encoding once
    palettes: tuple[PaletteName, ...]  # colours beside those of the table
    image_size: PositiveInt  # pixels
    crop_size: PositiveInt | None  # side in pixels of training crops at the images' own resolution; None: whole images
    channels: Channels
    latent_channels: PositiveInt
    num_upscalers: NonNegativeInt
    num_points: PositiveInt
    num_images: PositiveInt | None  # evaluated: the first so many of the validation split; None: all
    threshold: Share  # of the softmax where evaluated; 0 is the arg max alone, for trainings too short to be sure
    min_area: NonNegativeInt  # pixels at `image_size`
    training: TrainingProfile

    @model_validator(mode="after")
    def check(self) -> Self:
        """Refuse equal seeds and shapes that the autoencoder does not have."""
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} must be different")
        check_channels(self.channels, self.num_upscalers, self.image_size)
        if self.crop_size is not None and self.crop_size % 2 ** (len(self.channels) - 1):
            raise ValueError(f"crop_size {self.crop_size} is no multiple of {2 ** (len(self.channels) - 1)}")
        return self


@dataclass(frozen=True)
class DenoisingStepsProfile:
    """Table S2, Figure S5 and the frontier (notebook 06)."""

    counts: StepCounts  # numbers of denoising steps of Table S2, by the sampler of `evaluation`
    num_images: PositiveInt  # that every count is evaluated on: the first so many of the validation split
    frontier_counts: StepCounts  # of every sampler
    frontier_images: PositiveInt
    samplers: Annotated[tuple[SamplerName, ...], MinLen(1)]
    shown_counts: StepCounts  # of Figure S5, among `counts`
    shown_images: PositiveInt
    trajectory_steps: PositiveInt  # one of `counts`, whose estimates are followed from step to step
    precision: Literal["fp32", "fp16", "bf16"]  # of image encoder and denoiser, where evaluated and where timed
    timing_batch: PositiveInt  # images
    timing_repeats: PositiveInt

    @model_validator(mode="after")
    def check(self) -> Self:
        """Refuse counts that are shown and not computed."""
        for name, counts in (("shown_counts", self.shown_counts), ("trajectory_steps", (self.trajectory_steps,))):
            missing = [count for count in counts if count not in self.counts]
            if missing:
                raise ValueError(f"{name} has {missing[0]}, which is not in `counts`; add it")
        return self


@dataclass(frozen=True)
class ConsistencyProfile:
    """Consistency distillation and samples as evidence (notebook 12)."""

    timesteps: PositiveInt  # of the student's grid; it can be sampled in so many steps, and in any divisor of them
    teacher_steps: PositiveInt  # DDIM steps of the teacher from one timestep of the grid to the next
    huber: Number  # c of the pseudo-Huber loss
    target_decay: Number  # of the running mean that the student is compared with
    training: TrainingProfile
    counts: tuple[PositiveInt, ...]  # denoising steps at which the student is evaluated
    teacher_counts: tuple[PositiveInt, ...]  # and the teacher
    teacher_samplers: Annotated[tuple[SamplerName, ...], MinLen(1)]  # the first is the reference
    num_images: PositiveInt | None  # the first so many of the validation split; None: all
    samples: PositiveInt  # of one image, for agreement and consensus
    sampled_images: PositiveInt


@dataclass(frozen=True)
class ImageAutoencoderProfile:
    """The image encoder with reconstructive features: an AutoencoderKL (the paper: Stable Diffusion's).

    With `pretrained`, its shape comes from that checkpoint, and the rest is not used.
    """

    pretrained: str | None  # folder or hub name, with the subfolder vae/; None: trained by notebook 07
    channels: Channels  # widths; each after the first halves the resolution
    layers_per_block: PositiveInt
    latent_channels: PositiveInt
    kl_weight: Number
    training: TrainingProfile


@dataclass(frozen=True)
class SelfDistillationProfile:
    """The image encoder with semantic features: a ViT trained by self-distillation (the paper: DINOv2's ViT-B/14).

    With `pretrained`, its shape comes from that checkpoint, and what follows `out_channels` is not used.
    """

    pretrained: str | None  # folder or hub name; None: trained by notebook 07
    input_size: PositiveInt  # side in pixels that it sees
    out_channels: PositiveInt  # width of the learned projection of its tokens
    patch_size: PositiveInt
    hidden_size: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    prototypes: PositiveInt
    local_views: PositiveInt  # small crops beside the two large ones
    training: TrainingProfile

    @model_validator(mode="after")
    def check(self) -> Self:
        """Refuse patches and heads that do not fit."""
        # large crops have this side, small ones half of it
        if self.pretrained is None and self.input_size % (2 * self.patch_size):
            raise ValueError(f"input_size {self.input_size} is no multiple of twice patch_size {self.patch_size}")
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} does not divide by its {self.heads} heads")
        return self


@dataclass(frozen=True)
class ComponentsProfile:
    """Table S3, the loss components and the limitations (notebook 07). Not here: as in the main sections."""

    image_autoencoder: ImageAutoencoderProfile
    vit: SelfDistillationProfile
    image_size: PositiveInt  # pixels, of masks and images
    autoencoder: AutoencoderProfile  # of the masks
    other_channels: tuple[PositiveInt, ...]  # of the autoencoder with latents of another resolution
    other_num_upscalers: PositiveInt
    denoiser: DenoiserProfile
    diffusion: DiffusionProfile  # each row is trained so, but for what it is named after
    self_condition_probability: Share  # of the row with self-conditioning, or without where `diffusion` has it
    num_images: PositiveInt | None  # evaluated: the first so many of the validation split; None: all
    num_inference_steps: PositiveInt  # of Table S3 and of the loss components
    min_area: NonNegativeInt  # pixels at `image_size`
    step_counts: StepCounts  # at which orders of ids are compared
    inpainting_images: PositiveInt
    inpainting_steps: PositiveInt
    inpainting_rates: Annotated[tuple[OpenShare, ...], MinLen(1)]  # shares of an image's blocks that are hidden
    inpainting_blocks: tuple[PositiveInt, ...]  # sides in latent cells
    area_edges: tuple[int, ...]  # areas in pixels where a range of segment sizes begins, the first 0

    @model_validator(mode="after")
    def check(self) -> Self:
        """Refuse sizes that the autoencoders cannot halve, and comparisons with themselves."""
        factor = 2 ** (max(len(self.autoencoder.channels), len(self.other_channels)) - 1)
        if self.image_size % factor:
            raise ValueError(f"image_size {self.image_size} is no multiple of the autoencoders' factor {factor}")
        edges = list(self.area_edges)
        if not edges or edges[0] != 0 or edges != sorted(set(edges)):
            raise ValueError(f"area_edges {edges} must be increasing areas that begin with 0")
        if self.self_condition_probability == self.diffusion.self_condition_probability:
            raise ValueError("self_condition_probability is that of `diffusion`; give another, to compare with it")
        return self


@dataclass(frozen=True)
class OwnDatasetProfile:
    """A model of one's own folder (notebook 13). What is not here is as in the main sections."""

    start: str | None  # a trained pipeline to go on from: a folder, "embedded", a name on the hub; None: random weights
    train_scenes: NonNegativeInt  # without a folder: synthetic scenes in place of one's own images
    val_scenes: NonNegativeInt
    crop_size: PositiveInt | None  # pixels, of training crops and evaluation tiles; None: whole images
    num_ids: Annotated[int, Ge(2)]  # of a crop, void included
    semantic_fraction: Share  # share of semantic maps in both trainings
    autoencoder_steps: PositiveInt  # not used with `start`, whose autoencoder is kept
    diffusion_steps: PositiveInt
    num_images: PositiveInt | None  # evaluated: the first so many of the validation split; None: all
    num_inference_steps: PositiveInt
    min_area: NonNegativeInt  # pixels of the images' own size
