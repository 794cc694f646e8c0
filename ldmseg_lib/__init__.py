"""LDMSeg: latent diffusion for panoptic segmentation and mask inpainting. Names are loaded when first used."""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "LDMSegPipeline": "pipeline.ldmseg",
    "MaskAutoencoder": "models.autoencoder",
    "MaskEditor": "widgets.mask_editor",
    "PanopticDataset": "data.panoptic",
    "PanopticQuality": "evaluation.panoptic_quality",
    "Profile": "core.profiles",
    "build_denoiser": "models.denoiser",
    "build_image_encoder": "models.image_encoders",
    "check_dataset": "data.check",
    "get_encoding": "models.encodings",
    "postprocess_panoptic": "pipeline.postprocess",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ldmseg_lib' has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
