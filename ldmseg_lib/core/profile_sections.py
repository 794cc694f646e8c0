"""The sections of a profile, typed and frozen; `ldmseg_lib.core.profiles` reads them."""

from dataclasses import dataclass
from typing import Literal

# The three of Table S1, and colours of other palettes (`ldmseg_lib.models.encodings`).
EncodingName = Literal["bits", "colors", "positional", "colors_cube", "colors_random", "colors_hue", "colors_grey"]
SamplerName = Literal["ddim", "ddpm", "dpmsolver++", "unipc"]


@dataclass(frozen=True)
class DataProfile:
    """What the networks see. Sizes in pixels."""

    image_size: int  # side of the square that images are resized to
    crop_size: int | None  # side of the training crop at original resolution; None: the whole image
    num_ids: int  # ids 0..num_ids-1 of an id map, 0 being void
    id_order: Literal["random", "position"]  # the paper gives ids at random at every visit
    unlabelled: Literal["void", "background"] | None  # what id 0 means; None: as the folder says
    min_train_area: int  # smaller segments are void in training (original resolution)
    train_scenes: int  # embedded data set only, as the next three
    val_scenes: int
    min_things: int
    max_things: int
    workers: int  # loader processes; 0: in the training process


@dataclass(frozen=True)
class TrainingProfile:
    """One training of the one loop."""

    steps: int
    batch_size: int  # images a step, over all processes and accumulation
    micro_batch_size: int | None  # images a forward pass and process; None: batch_size / processes
    optimizer: Literal["adamw", "muon"]  # muon: for the matrices between a network's first and last; adamw for the rest
    learning_rate: float
    final_learning_rate: float  # reached at the last step by a cosine; equal to learning_rate: constant
    warmup_steps: int
    weight_decay: float
    decay_norms: bool  # also decay one-dimensional parameters (norms and biases)
    gradient_clip: float
    precision: Literal["fp32", "fp16", "bf16"]
    gradient_checkpointing: bool
    shard: bool  # split weights, gradients and optimiser state over the processes (FSDP2), for small cards
    ema_decay: float | None
    checkpoint_every: int
    keep_checkpoints: int
    log_every: int


@dataclass(frozen=True)
class AutoencoderProfile:
    """The shallow mask autoencoder (paper, section 3.1)."""

    encoding: EncodingName
    channels: tuple[int, ...]  # encoder widths; each after the first halves the resolution
    latent_channels: int
    num_upscalers: int  # learned doublings of the decoder; the rest is bilinear
    latent_scale: float | None  # None: latent_std / std of the training latents, measured after training
    latent_std: float  # what the latents' standard deviation is brought to, where latent_scale is None
    num_points: int  # sampled points of the point losses
    semantic_fraction: float  # share of training targets that are semantic maps
    training: TrainingProfile


@dataclass(frozen=True)
class DenoiserProfile:
    """The UNet. With `pretrained`, its shape comes from that checkpoint and the shape given here must be null."""

    pretrained: str | None  # folder or hub name in Stable Diffusion's layout
    channels: tuple[int, ...] | None
    attention: tuple[bool, ...] | None  # per resolution: a transformer block there
    layers_per_block: int | None
    head_dim: int | None
    task_dim: int | None  # width of the task tokens
    train_time_embedding: bool
    affinity_channels: int | None  # of the embedding of affinity pooling; None (the paper): no pooling


@dataclass(frozen=True)
class ImageEncoderProfile:
    """What turns the image into the denoiser's condition."""

    kind: Literal["small", "sd_vae", "vit"]
    pretrained: str | None  # folder or hub name of the weights; None: random (small) or made by notebook 07
    out_channels: int
    channels: tuple[int, ...] | None  # widths of the small encoder
    input_size: int | None  # side that a ViT sees
    layer: int | None  # hidden state of the ViT; -1 is the last
    trainable: bool


@dataclass(frozen=True)
class DiffusionProfile:
    """The latent diffusion model's objective."""

    tasks: dict[str, float]  # task name to its share of the training samples
    prediction_type: Literal["epsilon", "sample", "v_prediction"]
    loss_weight: Literal["none", "min_snr", "x0"]  # on the noise loss: 1, min(SNR, gamma) / SNR, 1 / SNR
    snr_gamma: float
    self_condition_probability: float
    # p in t = 1000 (1 - (1 - u)^p) for uniform u, by task; 1 (the paper) where a task is not named, more is noisier
    timestep_power: dict[str, float]
    affinity_weight: float  # in the loss, of the error with which affinity pooling alone denoises
    affinity_pretraining: TrainingProfile | None  # of image encoder and affinity, by that error alone; None: none
    training: TrainingProfile


@dataclass(frozen=True)
class EvaluationProfile:
    """How predictions are sampled, cleaned and judged."""

    num_images: int | None  # the first so many of the validation split; None: all
    batch_size: int
    sampler: Literal[SamplerName, "consistency"]
    num_inference_steps: int
    threshold: float
    min_area: int  # pixels at the evaluated size
    tile_size: int | None  # predict in overlapping tiles of this side; None: the whole image at once


@dataclass(frozen=True)
class InpaintingProfile:
    """What notebook 10 drops from known segmentations, and how it is filled in again."""

    num_images: int | None  # the first so many of the validation split; None: all
    drop_rates: tuple[float, ...]  # shares of an image's blocks
    block_sizes: tuple[int, ...]  # sides in latent cells
    sampler: Literal[SamplerName, "consistency"]
    num_inference_steps: int
    resamplings: int  # times that each step is done (RePaint); 1: the plain loop


@dataclass(frozen=True)
class MAEProfile:
    """A plain ViT pretrained by masked autoencoding (He et al., CVPR 2022), the baseline's first backbone.

    With `pretrained`, its shape comes from that checkpoint and everything below `input_size` must be null.
    """

    pretrained: str | None  # folder or hub name of the weights; None: pretrained by notebook 09
    input_size: int  # side in pixels that the ViT sees
    patch_size: int | None
    hidden_size: int | None
    layers: int | None
    heads: int | None
    decoder_hidden_size: int | None  # of the decoder that is thrown away afterwards
    decoder_layers: int | None
    mask_ratio: float | None  # share of the patches that are hidden
    training: TrainingProfile | None


@dataclass(frozen=True)
class SelfDistilledProfile:
    """A plain ViT pretrained by self-distillation (DINOv2), the baseline's second backbone."""

    pretrained: str | None  # folder or hub name of the weights; None: the one that notebook 07 pretrained
    input_size: int  # side in pixels that the ViT sees


@dataclass(frozen=True)
class Mask2FormerProfile:
    """The baseline: Mask2Former on plain ViTs (supplement A, "Mask2Former Baselines")."""

    mae: MAEProfile
    self_distilled: SelfDistilledProfile
    channels: int  # width of the neck's maps and of the decoder
    mask_channels: int  # length of the mask embeddings
    feedforward: int
    heads: int
    layers: int  # masked-attention layers
    queries: int
    finest: Literal[2, 4]  # resolution of the mask features, as a multiple of the ViT's grid
    num_points: int  # sampled points of the matching and of each mask's losses
    class_weight: float
    mask_weight: float
    dice_weight: float
    no_object_weight: float  # of the unmatched queries in the class loss
    threshold: float  # queries whose class is less probable are dropped
    overlap: float  # share of a query's mask that must be left to it
    training: TrainingProfile


@dataclass(frozen=True)
class MultitaskProfile:
    """What notebook 08 teaches the model of notebook 04, and what it compares the outcome with (supplement A)."""

    tasks: dict[str, float]  # task name to its share of the training samples
    depth_autoencoder: TrainingProfile  # its shape is that of the mask autoencoder
    training: TrainingProfile  # of the denoiser
    compared: tuple[tuple[str, ...], ...]  # groups of tasks trained apart, each with as many samples of a task
    added_steps: int  # training steps with the task that the notebook adds itself
    added_share: float  # that task's share of their samples
    num_images: int | None  # the first so many of the validation split; None: all
    num_inference_steps: int


@dataclass(frozen=True)
class EncodingsProfile:
    """The autoencoders of Table S1 (notebook 03), each for 256 ids; what is not here is as in `autoencoder`."""

    seeds: tuple[int, ...]  # each trains every encoding once
    palettes: tuple[EncodingName, ...]  # colours beside those of the table
    image_size: int  # pixels
    channels: tuple[int, ...]
    latent_channels: int
    num_upscalers: int
    num_points: int
    num_images: int | None  # judged: the first so many of the validation split; None: all
    threshold: float  # of the softmax where judged; 0 is the arg max alone, for trainings too short to be sure
    min_area: int  # pixels at `image_size`
    training: TrainingProfile


@dataclass(frozen=True)
class DenoisingStepsProfile:
    """Table S2, Figure S5 and the frontier (notebook 06)."""

    counts: tuple[int, ...]  # numbers of denoising steps of Table S2, by the sampler of `evaluation`
    num_images: int  # that every count is judged on: the first so many of the validation split
    frontier_counts: tuple[int, ...]  # of every sampler
    frontier_images: int
    samplers: tuple[SamplerName, ...]
    shown_counts: tuple[int, ...]  # of Figure S5, among `counts`
    shown_images: int
    trajectory_steps: int  # one of `counts`, whose estimates are followed from step to step
    precision: Literal["fp32", "fp16", "bf16"]  # of image encoder and denoiser, where judged and where timed
    timing_batch: int  # images
    timing_repeats: int


@dataclass(frozen=True)
class ConsistencyProfile:
    """Consistency distillation and samples as evidence (notebook 12)."""

    timesteps: int  # of the student's grid; it can be sampled in so many steps, and in any divisor of them
    teacher_steps: int  # DDIM steps of the teacher from one timestep of the grid to the next
    huber: float  # c of the pseudo-Huber loss
    target_decay: float  # of the running mean that the student is compared with
    training: TrainingProfile
    counts: tuple[int, ...]  # denoising steps at which the student is judged
    teacher_counts: tuple[int, ...]  # and the teacher
    teacher_samplers: tuple[SamplerName, ...]  # by each of these; shares are of the first one's longest sampling
    num_images: int | None  # the first so many of the validation split; None: all
    samples: int  # of one image, for agreement and consensus
    sampled_images: int


@dataclass(frozen=True)
class ImageAutoencoderProfile:
    """The image encoder with reconstructive features: an AutoencoderKL (the paper: Stable Diffusion's).

    With `pretrained`, its shape comes from that checkpoint, and the rest is not used.
    """

    pretrained: str | None  # folder or hub name, with the subfolder vae/; None: trained by notebook 07
    channels: tuple[int, ...]  # widths; each after the first halves the resolution
    layers_per_block: int
    latent_channels: int
    kl_weight: float
    training: TrainingProfile


@dataclass(frozen=True)
class SelfDistillationProfile:
    """The image encoder with semantic features: a ViT trained by self-distillation (the paper: DINOv2's ViT-B/14).

    With `pretrained`, its shape comes from that checkpoint, and what follows `out_channels` is not used.
    """

    pretrained: str | None  # folder or hub name; None: trained by notebook 07
    input_size: int  # side in pixels that it sees
    out_channels: int  # width of the learned projection of its tokens
    patch_size: int
    hidden_size: int
    layers: int
    heads: int
    prototypes: int
    local_views: int  # small crops beside the two large ones
    training: TrainingProfile


@dataclass(frozen=True)
class ComponentsProfile:
    """Table S3, the loss components and the limitations (notebook 07). Not here: as in the main sections."""

    image_autoencoder: ImageAutoencoderProfile
    vit: SelfDistillationProfile
    image_size: int  # pixels, of masks and images
    autoencoder: AutoencoderProfile  # of the masks
    other_channels: tuple[int, ...]  # of the autoencoder whose latents have another resolution; else it is the same
    other_num_upscalers: int
    denoiser: DenoiserProfile
    diffusion: DiffusionProfile  # each row is trained so, but for what it is named after
    self_condition_probability: float  # of the row with self-conditioning, or without where `diffusion` has it
    num_images: int | None  # judged: the first so many of the validation split; None: all
    num_inference_steps: int  # of Table S3 and of the loss components
    min_area: int  # pixels at `image_size`
    step_counts: tuple[int, ...]  # at which orders of ids are compared
    inpainting_images: int
    inpainting_steps: int
    inpainting_rates: tuple[float, ...]  # shares of an image's blocks that are hidden
    inpainting_blocks: tuple[int, ...]  # sides in latent cells
    area_edges: tuple[int, ...]  # areas in pixels where a range of segment sizes begins, the first 0


@dataclass(frozen=True)
class OwnDatasetProfile:
    """A model of one's own folder (notebook 13). What is not here is as in the main sections."""

    start: str | None  # a trained pipeline to go on from: a folder, "embedded", a name on the hub; None: random weights
    train_scenes: int  # without a folder: drawn scenes that stand for one's own images
    val_scenes: int
    crop_size: int | None  # side in pixels of the training crops, and of the tiles in evaluation; None: whole images
    num_ids: int  # of a crop, void included
    semantic_fraction: float  # share of semantic maps in both trainings
    autoencoder_steps: int  # not used with `start`, whose autoencoder is kept
    diffusion_steps: int
    num_images: int | None  # judged: the first so many of the validation split; None: all
    num_inference_steps: int
    min_area: int  # pixels of the images' own size
