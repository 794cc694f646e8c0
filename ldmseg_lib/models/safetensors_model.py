"""Models and their weights on disk: safetensors alone, and every weight accounted for."""

import json
import os
import warnings
from pathlib import Path
from typing import Any, Self

from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError

from ..core.errors import InputError

_UNREADABLE = (OSError, ValueError, RuntimeError, SafetensorError)


class SafetensorsModel(ModelMixin, ConfigMixin):
    """A diffusers model (save_pretrained, from_pretrained) that never reads a pickle nor makes up a missing weight."""

    config_name = "config.json"

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike, **settings: Any) -> Self:
        """The model that `save_pretrained` wrote to `folder`.

        Raises:
            InputError: the weights are missing, damaged, incomplete, or of a model of another shape or kind.
        """
        require_kind(Path(folder) / settings.get("subfolder", ""), cls.__name__)
        try:
            model, info = super().from_pretrained(
                folder, **{**settings, "use_safetensors": True, "output_loading_info": True}
            )
        except _UNREADABLE as error:
            raise InputError(f"{folder}: no {cls.__name__} can be loaded from it ({_one_line(error)})") from error
        _require_all(info, f"{folder}: the weights of {cls.__name__}")
        return model


def require_kind(folder: str | os.PathLike, wanted: str) -> None:
    """Refuse a folder that says of itself that it holds something else than `wanted`; one that says nothing may pass.

    Raises:
        InputError: it holds a pipeline or a model of another class.
    """
    for name in ("model_index.json", "config.json"):
        try:
            stated = json.loads((Path(folder) / name).read_bytes())
            found = stated.get("_class_name") or next(iter(stated.get("architectures") or []), None)
        except (OSError, ValueError, AttributeError):
            continue
        if found not in (None, wanted):
            raise InputError(f"{folder}: holds a {found}, not a {wanted}; give the folder of a {wanted}")


def load_pretrained(kind: Any, source: str, *, key: str, subfolder: str = "") -> Any:
    """`kind.from_pretrained(source)`, for models of diffusers and transformers.

    Every weight of the file is used, or a warning names those that are not.

    Args:
        kind: the model's class.
        source: a folder, or a name on the hub.
        key: the profile's key that gave `source`, for messages.
        subfolder: of `source`.

    Raises:
        InputError: the weights are neither on disk nor to be fetched, lack some of the model's, or have other shapes.
    """
    what = f"{key}: the {kind.__name__} weights at {source!r}"
    try:
        model, info = kind.from_pretrained(source, subfolder=subfolder, use_safetensors=True, output_loading_info=True)
    except (ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{what} belong to another model or are damaged ({_one_line(error)[:400]})") from error
    except OSError as error:
        raise InputError(
            f"{kind.__name__} weights were not found at {source!r} ({_one_line(error)[:200]}); download them with"
            f" `hf download {source}` (HF_HOME names the cache), or set {key} to a folder that holds them"
        ) from error
    _require_all(info, what)
    idle = sorted(info["unexpected_keys"])
    if idle:
        warnings.warn(f"{what}: {len(idle)} of the file's tensors are not used: {', '.join(idle)}", stacklevel=2)
    return model


def _require_all(info: dict[str, Any], what: str) -> None:
    """Libraries only warn of weights that a file lacks, and go on with random ones."""
    missing = sorted(info["missing_keys"])
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"{what} lack {missing[0]!r}{more}; they belong to another model")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
