"""The probe tells features that say the classes from features that say the pixels."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ldmseg_lib.data.splits import training_split, validation_split
from ldmseg_lib.experiments.components.feature_probe import principal_colors, probe_features

CELLS = 8


class Stub(nn.Module):
    """An encoder of which the test says what it knows."""

    def __init__(self, function) -> None:
        super().__init__()
        self.device_marker, self.function = nn.Parameter(torch.zeros(1)), function

    def features(self, images):
        return self.function(images)


@pytest.fixture(scope="module")
def splits(smoke_profile, smoke_data):
    return training_split(smoke_profile, smoke_data), validation_split(smoke_profile, smoke_data)


def probe(splits, function):
    return probe_features(Stub(function), *splits, cells=CELLS, batch_size=5)


def test_the_pixels_themselves_tell_all_pixels(splits):
    result = probe(splits, lambda images: F.pixel_unshuffle(images, images.shape[-1] // CELLS))
    assert result["pixels_explained"] > 0.99 and result["channels"] == 3 * 16


def test_the_classes_themselves_tell_all_classes(splits):
    """Features that hold the class of each cell's centre, looked up by image."""
    known = {}
    for split in splits:
        for index in range(len(split)):
            sample = split[index]
            known[sample["image"].sum().item()] = F.one_hot(sample["semantic"][2::4, 2::4], 20).permute(2, 0, 1).float()
    result = probe(splits, lambda images: torch.stack([known[image.sum().item()] for image in images]))
    assert result["class_accuracy"] == 1.0 and result["pixels_explained"] < 0.9


def test_features_that_say_nothing_do_no_better_than_the_commonest_class(splits):
    result = probe(splits, lambda images: torch.zeros(len(images), 3, CELLS, CELLS))
    assert result["class_accuracy"] == pytest.approx(result["most_frequent"])
    assert result["pixels_explained"] == pytest.approx(0.0, abs=0.2)


def test_features_of_another_grid_are_brought_to_the_cells(splits):
    assert probe(splits, lambda images: F.avg_pool2d(images, 8))["channels"] == 3


def test_principal_colors_are_colours_and_tell_apart_what_differs():
    features = torch.zeros(2, 7, 4, 4)
    features[0, 3, :2], features[1, 5, :, :2] = 1.0, 2.0
    colors = principal_colors(features)
    assert colors.shape == (2, 3, 4, 4) and colors.min() >= 0 and colors.max() <= 1
    assert not torch.allclose(colors[0, :, 0, 0], colors[0, :, 3, 3], atol=0.1)
    assert torch.allclose(colors[0, :, 0, 0], colors[0, :, 1, 3], atol=1e-5)
