"""Where the shipped model of the embedded scenes lies. A reproduction loads it only if told to (own_dataset.start)."""

from pathlib import Path

from ..core import paths
from ..core.errors import InputError

EMBEDDED = "embedded"
"""The name that stands for the shipped model in `LDMSegPipeline.from_pretrained`; a folder of yours is "./embedded"."""

_MAKE = "make it with `python -m ldmseg_lib.experiments.pretrained_weights`"


def embedded_folder() -> Path:
    """The folder of the shipped pipeline, with its model card.

    Raises:
        InputError: this installation does not hold it.
    """
    folder = paths.PACKAGE / "pipeline" / "weights" / EMBEDDED
    if not (folder / "model_index.json").is_file():
        raise InputError(f"{folder}: the pretrained model of the embedded scenes is not in this installation; {_MAKE}")
    return folder
