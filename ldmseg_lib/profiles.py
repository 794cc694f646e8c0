"""Profiles: every setting of a run, typed and frozen, read from notebooks/profiles/*.yaml.

A profile file holds all keys; an override changes single ones ("diffusion.training.steps=100"). Unknown keys, missing
keys and values of another type are errors that name the key and the nearest valid one.
"""

import contextlib
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from . import paths
from .errors import ProfileError
from .profile_checks import check_profile

# The three of Table S1, and colours of other palettes (`ldmseg_lib.encodings`).
EncodingName = Literal["bits", "colors", "positional", "colors_cube", "colors_random", "colors_hue", "colors_grey"]


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
    """The shallow mask autoencoder (method section 2)."""

    encoding: EncodingName
    channels: tuple[int, ...]  # encoder widths; each after the first halves the resolution
    latent_channels: int
    num_upscalers: int  # learned doublings of the decoder; the rest is bilinear
    latent_scale: float | None  # None: 1 / std of the training latents, measured after training
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
    """The latent diffusion model's objective (method section 3)."""

    tasks: dict[str, float]  # task name to its share of the training samples
    prediction_type: Literal["epsilon", "sample", "v_prediction"]
    loss_weight: Literal["none", "min_snr", "x0"]  # on the noise loss: 1, min(SNR, gamma) / SNR, 1 / SNR
    snr_gamma: float
    self_condition_probability: float
    training: TrainingProfile


@dataclass(frozen=True)
class EvaluationProfile:
    """How predictions are sampled, cleaned and judged."""

    num_images: int | None  # the first so many of the validation split; None: all
    batch_size: int
    sampler: Literal["ddim", "ddpm", "dpmsolver++", "unipc", "consistency"]
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
    sampler: Literal["ddim", "ddpm", "dpmsolver++", "unipc", "consistency"]
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
    num_upscalers: int
    num_points: int
    num_images: int | None  # judged: the first so many of the validation split; None: all
    min_area: int  # pixels at `image_size`
    training: TrainingProfile


@dataclass(frozen=True)
class DenoisingStepsProfile:
    """Table S2, Figure S5 and the frontier (notebook 06)."""

    counts: tuple[int, ...]  # numbers of denoising steps of Table S2, by the sampler of `evaluation`
    num_images: int  # that every count is judged on: the first so many of the validation split
    frontier_counts: tuple[int, ...]  # of every sampler
    frontier_images: int
    samplers: tuple[Literal["ddim", "ddpm", "dpmsolver++", "unipc"], ...]
    shown_counts: tuple[int, ...]  # of Figure S5, among `counts`
    shown_images: int
    trajectory_steps: int  # one of `counts`, whose estimates are followed from step to step
    precision: Literal["fp32", "fp16", "bf16"]  # of image encoder and denoiser, where judged and where timed
    timing_batch: int  # images
    timing_repeats: int


@dataclass(frozen=True)
class Profile:
    """All settings of a run; `name` is the profile's, also when overrides changed values."""

    name: str
    data: DataProfile
    autoencoder: AutoencoderProfile
    denoiser: DenoiserProfile
    image_encoder: ImageEncoderProfile
    diffusion: DiffusionProfile
    evaluation: EvaluationProfile
    inpainting: InpaintingProfile
    multitask: MultitaskProfile
    mask2former: Mask2FormerProfile
    encodings: EncodingsProfile
    denoising_steps: DenoisingStepsProfile

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Mapping[str, Any] | str | None = None) -> "Profile":
        """The profile `name_or_path` (smoke, demo, gpu, paper, or a YAML file) with `overrides` put over it.

        Overrides are a mapping with dotted keys, or the same as text: "evaluation.min_area=0,data.num_ids=64".

        Raises:
            ProfileError: no such profile; unknown, missing or mistyped key (the nearest valid one is named).
        """
        path = Path(name_or_path)
        if path.suffix not in (".yaml", ".yml"):
            known = sorted(p.stem for p in paths.PROFILES.glob("*.yaml"))
            if str(name_or_path) not in known:
                raise ProfileError(f"unknown profile {str(name_or_path)!r}; {_nearest(str(name_or_path), known)}")
            path = paths.PROFILES / f"{name_or_path}.yaml"
        try:
            values = _yaml(path.read_bytes(), str(path))
        except OSError as error:
            raise ProfileError(f"{path}: cannot be read ({error.strerror})") from None
        if not isinstance(values, dict):
            raise ProfileError(f"{path}: holds no keys; start from a copy of notebooks/profiles/demo.yaml")
        for key, value in parse_overrides(overrides).items():
            _override(values, key, value)
        profile = _build(cls, {"name": path.stem, **values}, "")
        check_profile(profile)
        return profile


def parse_overrides(overrides: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """Overrides as a dict of dotted keys; text "a.b=1,c=2" is split at commas outside brackets, values read as YAML."""
    if overrides is None or isinstance(overrides, Mapping):
        return dict(overrides or {})
    result = {}
    for part in _split_outside_brackets(overrides):
        key, equals, value = part.partition("=")
        if not equals:
            raise ProfileError(f"override {part!r} has no '='; write key=value, such as evaluation.min_area=0")
        result[key.strip()] = _yaml(value, f"override {part!r}")
    return result


def _yaml(text: str | bytes, what: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise ProfileError(f"{what}: not YAML ({' '.join(str(error).split())})") from None


def _split_outside_brackets(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def _override(values: dict, key: str, value: Any) -> None:
    *parents, last = str(key).split(".")
    place, kind = values, Profile
    for depth, parent in enumerate(parents):
        kind = _fields(kind, ".".join(parents[:depth])).get(parent) if dataclasses.is_dataclass(kind) else None
        if kind is None or not isinstance(place.get(parent), dict):
            raise ProfileError(f"unknown profile key {key!r}; {_nearest(key, _all_keys(Profile))}")
        # a copy: two sections may be one and the same in YAML (`training: *training`)
        place[parent] = dict(place[parent])
        place = place[parent]
    if dataclasses.is_dataclass(kind) and last not in _fields(kind, key):
        raise ProfileError(f"unknown profile key {key!r}; {_nearest(key, _all_keys(Profile))}")
    place[last] = value


def _fields(kind: Any, _key: str) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _all_keys(kind: Any, prefix: str = "") -> list[str]:
    keys = []
    for name, field_type in _fields(kind, prefix).items():
        keys += _all_keys(field_type, f"{prefix}{name}.") if dataclasses.is_dataclass(field_type) else [prefix + name]
    return keys


def _nearest(word: str, valid: list[str]) -> str:
    near = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"valid ones are {', '.join(valid)}"


def _build(kind: Any, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ProfileError(f"profile key {where!r} must hold keys, not {values!r}")
    fields = _fields(kind, where)
    prefix = f"{where}." if where else ""
    for key in values:
        if key not in fields:
            raise ProfileError(f"unknown profile key {prefix + str(key)!r}; {_nearest(str(key), list(fields))}")
    missing = [key for key in fields if key not in values]
    if missing:
        raise ProfileError(f"profile key {prefix + missing[0]!r} is missing")
    return kind(**{key: _convert(fields[key], values[key], prefix + key) for key in fields})


def _convert(kind: Any, value: Any, key: str) -> Any:
    """`value` as the annotated type `kind`, or a ProfileError that names the key and the type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, key)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, key)
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(arguments[0], item, key) for item in value)
    if origin is dict and isinstance(value, dict):
        return {_convert(str, k, key): _convert(arguments[1], v, key) for k, v in value.items()}
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):  # YAML reads 1e-3, without a dot, as text
            if math.isfinite(float(value)):
                return float(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    wanted = " or ".join(map(repr, arguments)) if origin is Literal else getattr(kind, "__name__", str(kind))
    raise ProfileError(f"profile key {key!r} must be {wanted}, not {value!r}")
