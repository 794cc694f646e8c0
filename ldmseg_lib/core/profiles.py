"""Profiles: every setting of a run, typed and frozen, read from notebooks/profiles/*.yaml.

A profile file holds all keys; an override changes single ones ("diffusion.training.steps=100"). Unknown keys, missing
keys and values of another type are errors that name the key and the nearest valid one.
"""

import dataclasses
import difflib
import functools
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError, model_validator

from . import paths
from .errors import ProfileError
from .sections import (
    AutoencoderProfile,
    DataProfile,
    DenoiserProfile,
    DiffusionProfile,
    EvaluationProfile,
    ImageEncoderProfile,
    InpaintingProfile,
)
from .study_sections import (
    ComponentsProfile,
    ConsistencyProfile,
    DenoisingStepsProfile,
    EncodingsProfile,
    Mask2FormerProfile,
    MultitaskProfile,
    OwnDatasetProfile,
)


@dataclass(frozen=True)
class Profile:
    """All settings of a run; `name` is the profile's, also when overrides changed values.

    Example:
        >>> from ldmseg_lib import Profile
        >>> profile = Profile.load("smoke", {"data.num_ids": 8})
        >>> profile.name, profile.data.image_size, profile.data.num_ids
        ('smoke', 32, 8)
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

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

    @model_validator(mode="after")
    def check(self) -> Self:
        """Refuse images that the autoencoder cannot halve."""
        size, channels = self.data.image_size, self.autoencoder.channels
        if size % 2 ** (len(channels) - 1):
            raise ValueError(
                f"data.image_size {size} is no multiple of the autoencoder's factor {2 ** (len(channels) - 1)}"
                f" (autoencoder.channels has {len(channels)} entries)"
            )
        return self

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
        return _validated({"name": path.stem, **values})


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


def _override(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = str(key).split(".")
    for parent in parents:
        if not isinstance(values.get(parent), dict):
            raise ProfileError(f"unknown profile key {key!r}; {_nearest(key, _all_keys(Profile))}")
        # a copy: two sections may be one and the same in YAML (`training: *training`)
        values[parent] = values = dict(values[parent])
    values[last] = value


def _all_keys(kind: Any, prefix: str = "") -> list[str]:
    keys = []
    for name, field_type in typing.get_type_hints(kind).items():
        keys += _all_keys(field_type, f"{prefix}{name}.") if dataclasses.is_dataclass(field_type) else [prefix + name]
    return keys


def _nearest(word: str, valid: list[str]) -> str:
    same_end = [name for name in valid if name.endswith(f".{word}")]
    near = same_end or difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"valid ones are {', '.join(valid)}"


def check_profile(profile: Profile) -> None:
    """Raise ProfileError for the first invalid value of a profile changed in code; the message names its key."""
    _validated(dataclasses.asdict(profile))


@functools.cache
def _adapter() -> TypeAdapter[Profile]:
    return TypeAdapter(Profile)


def _validated(values: Mapping[str, Any]) -> Profile:
    """The profile of nested `values`. As JSON, so that lists become tuples while all other types are strict."""
    try:
        return _adapter().validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise ProfileError(_message(error.errors(include_url=False))) from None
    except TypeError as error:
        raise ProfileError(f"the keys of a profile are words ({error})") from None


def _message(errors: Sequence[Any]) -> str:
    """The first of pydantic's errors in a sentence; unknown keys come first, as a misspelt key is missing too."""
    error = next((e for e in errors if e["type"] == "unexpected_keyword_argument"), errors[0])
    key, kind = ".".join(map(str, error["loc"])), error["type"]
    if kind == "unexpected_keyword_argument":
        return f"unknown profile key {key!r}; {_nearest(key, _all_keys(Profile))}"
    if kind == "missing":
        return f"profile key {key!r} is missing"
    if kind == "value_error":
        return ".".join(filter(None, [key, str(error["ctx"]["error"])]))
    if kind == "too_short":
        return f"profile key {key!r} must have at least one entry"
    wanted = error["msg"].partition(" should ")[2]
    if kind == "literal_error":
        wanted = f"be {error['ctx']['expected'].replace(', ', ' or ')}"
    if kind == "dataclass_type":
        wanted = "hold keys"
    return f"profile key {key!r} must {wanted}, not {error['input']!r}"
