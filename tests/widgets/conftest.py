"""A small image with three segments, and editors on it."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldmseg_lib.widgets.mask_editor import MaskEditor

SEGMENTS = [{"id": 1, "category_id": 10}, {"id": 2, "category_id": 20}, {"id": 3, "category_id": 20}]
CATEGORIES = [{"id": 10, "name": "sky", "isthing": 0}, {"id": 20, "name": "ball", "isthing": 1}]


@pytest.fixture(scope="session")
def fake_pipeline() -> type:
    """The class of a stand-in for the model."""
    path = Path(__file__).with_name("fake_pipeline.py")
    spec = importlib.util.spec_from_file_location("fake_pipeline", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FakePipeline


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


@pytest.fixture
def ids() -> np.ndarray:
    result = np.ones((48, 64), np.int64)
    result[20:40, 5:30] = 2
    result[10:30, 40:60] = 3
    result[:4, :4] = 0
    return result


@pytest.fixture
def make_editor(image, ids, fake_pipeline, tmp_path) -> Callable[..., MaskEditor]:
    """An editor on the image; keywords replace its arguments."""

    def make(**arguments: Any) -> MaskEditor:
        defaults = {
            "image": image,
            "ids": ids,
            "pipeline": fake_pipeline(),
            "segments": SEGMENTS,
            "categories": CATEGORIES,
            "run_dir": tmp_path / "run",
        }
        return MaskEditor(**(defaults | arguments))

    return make
