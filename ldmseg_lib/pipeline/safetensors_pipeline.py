"""A diffusers pipeline on disk and on the hub: safetensors alone, and a model card that says something."""

import os
from typing import Any, Self

from diffusers import DiffusionPipeline
from safetensors import SafetensorError

from ..core.errors import InputError
from ..models.safetensors_model import require_kind
from .model_card import complete_card
from .pretrained import EMBEDDED, embedded_folder


class SafetensorsPipeline(DiffusionPipeline):
    """A diffusers pipeline that never reads nor writes a pickle."""

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike, **settings: Any) -> Self:
        """The pipeline that `save_pretrained` wrote to `folder`; weights are read from safetensors alone.

        Args:
            folder: a folder, a name on the hub, or "embedded": the pretrained model of the embedded scenes.
            settings: those of diffusers.

        Raises:
            InputError: the folder holds no pipeline or something else, or a part is missing or of another shape.
        """
        place = embedded_folder() if folder == EMBEDDED else folder
        require_kind(place, cls.__name__)
        try:
            return super().from_pretrained(os.fspath(place), **{**settings, "use_safetensors": True})
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"{folder}: no pipeline can be loaded from it ({reason})") from error

    def save_pretrained(
        self, save_directory: str | os.PathLike, safe_serialization: bool = True, **kwargs: Any
    ) -> None:
        """As diffusers does, `push_to_hub` included, but pickles (safe_serialization=False) are an InputError."""
        if not safe_serialization:
            raise InputError("safe_serialization=False would write pickles; weights are saved as safetensors alone")
        super().save_pretrained(os.fspath(save_directory), **kwargs)

    def _upload_folder(self, working_dir: str | os.PathLike, *arguments: Any, **settings: Any) -> Any:
        """The last step of diffusers' `push_to_hub`, with a card that says something in place of its empty one."""
        complete_card(working_dir, self)
        return super()._upload_folder(working_dir, *arguments, **settings)
