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
from typing import Any, Literal, cast

import yaml

from . import paths
from .errors import ProfileError
from .profile_checks import check_profile
from .profile_sections import (
    AutoencoderProfile,
    ComponentsProfile,
    ConsistencyProfile,
    DataProfile,
    DenoiserProfile,
    DenoisingStepsProfile,
    DiffusionProfile,
    EncodingName,
    EncodingsProfile,
    EvaluationProfile,
    ImageAutoencoderProfile,
    ImageEncoderProfile,
    InpaintingProfile,
    MAEProfile,
    Mask2FormerProfile,
    MultitaskProfile,
    OwnDatasetProfile,
    SelfDistillationProfile,
    SelfDistilledProfile,
    TrainingProfile,
)

__all__ = [
    "AutoencoderProfile",
    "ComponentsProfile",
    "ConsistencyProfile",
    "DataProfile",
    "DenoiserProfile",
    "DenoisingStepsProfile",
    "DiffusionProfile",
    "EncodingName",
    "EncodingsProfile",
    "EvaluationProfile",
    "ImageAutoencoderProfile",
    "ImageEncoderProfile",
    "InpaintingProfile",
    "MAEProfile",
    "Mask2FormerProfile",
    "MultitaskProfile",
    "Profile",
    "SelfDistillationProfile",
    "SelfDistilledProfile",
    "TrainingProfile",
    "parse_overrides",
]


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
    consistency: ConsistencyProfile
    encodings: EncodingsProfile
    denoising_steps: DenoisingStepsProfile
    components: ComponentsProfile
    own_dataset: OwnDatasetProfile

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
    place, kind = values, cast(Any, Profile)
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
    same_end = [name for name in valid if name.endswith(f".{word}")]
    near = same_end or difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"valid ones are {', '.join(valid)}"


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
