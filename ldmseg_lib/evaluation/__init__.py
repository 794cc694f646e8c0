"""Metrics: panoptic quality, semantic IoU, depth, instance AP. Names are loaded when first used.

The command `python -m ldmseg_lib.evaluation` and the modules it needs import neither torch nor diffusers.
"""

import importlib
from typing import Any

_PUBLIC = {
    "DepthMetrics": "depth_metrics",
    "InstanceAP": "instance_ap",
    "PanopticQuality": "panoptic_quality",
    "SegmentSizeQuality": "segment_size",
    "SemanticIoU": "semantic_iou",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ldmseg_lib.evaluation' has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
