"""From images to panoptic predictions. Names are loaded when first used."""

import importlib
from typing import Any

_PUBLIC = {"LDMSegPipeline": "ldmseg", "ImageFeatures": "images", "PanopticOutput": "output"}
__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
