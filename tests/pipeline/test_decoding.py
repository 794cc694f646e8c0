"""Decoding one image: the maps of tasks that were added, whole and in tiles."""

import numpy as np
import pytest
import torch

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.pipeline.decoding import decode_image
from ldmseg_lib.pipeline.tiling import place_tiles

SETTINGS = {"num_ids": 4, "categories": [], "threshold": 0.0, "min_area": 0}


def logits(labels: torch.Tensor) -> torch.Tensor:
    """Sure of `labels` 0..3."""
    return 20 * torch.nn.functional.one_hot(labels, 4).permute(2, 0, 1).float()


def test_several_channels_are_labels_and_one_is_values():
    labels = torch.randint(1, 4, (8, 8), generator=torch.Generator().manual_seed(0))
    values = torch.linspace(-1, 1, 64).reshape(1, 8, 8)
    output = decode_image({"kind": [logits(labels)], "height": [values]}, (8, 8), None, **SETTINGS)
    assert np.array_equal(output.maps["kind"][0], labels.numpy()) and output.maps["kind"][0].dtype == np.int32
    assert np.allclose(output.maps["height"][0], values[0].numpy())
    assert output.depth == [None] and output.semantic == [None] and len(output) == 1


def test_label_0_is_unknown_and_no_answer():
    """It is no positive in training."""
    sure_of_nothing = logits(torch.zeros(4, 4, dtype=torch.long))
    output = decode_image({"kind": [sure_of_nothing]}, (4, 4), None, **SETTINGS)
    assert output.maps["kind"][0].min() >= 1


def test_labels_join_from_tiles_and_values_do_not():
    labels = torch.ones(16, 24, dtype=torch.long)
    labels[:, 12:], labels[8:] = 2, 3
    grid = place_tiles((16, 24), 8)
    tiles = [torch.from_numpy(tile).long() for tile in grid.cut(np.dstack([labels.numpy().astype(np.uint8)] * 3))]
    output = decode_image({"kind": [logits(tile[..., 0]) for tile in tiles]}, (16, 24), grid, **SETTINGS)
    assert np.array_equal(output.maps["kind"][0], labels.numpy())
    with pytest.raises(InputError, match="relative within each tile"):
        decode_image({"height": [torch.zeros(1, 8, 8)] * len(tiles)}, (16, 24), grid, **SETTINGS)
