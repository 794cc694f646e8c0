"""The autoencoder's scores: 1 for a perfect one, 0 for one that sees nothing, and nothing forgiven in between."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ldmseg_lib.data.splits import validation_split
from ldmseg_lib.experiments.reconstruction import evaluate_reconstruction, reconstruct
from ldmseg_lib.pipeline.postprocess import instances_from_logits


class OneHot:
    """Latents are the one-hot map itself; `confidence` is the largest softmax value, `change` spoils the map."""

    device = torch.device("cpu")

    def __init__(self, num_ids: int = 16, confidence: float = 0.99, change=lambda ids: ids) -> None:
        self.config, self.change = SimpleNamespace(num_ids=num_ids), change
        self.gain = float(np.log(confidence * (num_ids - 1) / (1 - confidence)))

    def encode(self, ids):
        return SimpleNamespace(mean=F.one_hot(self.change(ids), self.config.num_ids).permute(0, 3, 1, 2).float())

    def decode(self, latents):
        return self.gain * latents


@pytest.fixture(scope="module")
def dataset(smoke_profile, smoke_data):
    return validation_split(smoke_profile, smoke_data)


def scores(autoencoder, dataset, **settings) -> tuple[float, float]:
    result = evaluate_reconstruction(autoencoder, dataset, **{"min_area": 0} | settings)
    return result["class_agnostic"]["All"]["pq"], result["miou"]


def test_a_perfect_autoencoder_scores_1(dataset):
    """Also in mIoU, which has no ceiling below 1 here (method 6.4): id 0 is not averaged in."""
    assert scores(OneHot(), dataset) == (1, 1)


def test_one_that_says_void_scores_0(dataset):
    assert scores(OneHot(change=torch.zeros_like), dataset) == (0, 0)


def test_the_threshold_counts_for_quality_and_not_for_iou(dataset):
    unsure = OneHot(confidence=0.4)
    assert scores(unsure, dataset, threshold=0.5) == (0, 1)
    assert scores(unsure, dataset, threshold=0.3) == (1, 1)


def test_ids_must_come_back_themselves_for_iou_and_only_apart_for_quality(dataset):
    def permuted(ids):
        return torch.where(ids > 0, ids % 15 + 1, 0)

    assert scores(OneHot(change=permuted), dataset) == (1, 0)


def test_small_segments_are_dropped_as_asked(dataset):
    assert scores(OneHot(), dataset, min_area=10_000) == (0, 1)


def test_the_batch_changes_nothing(smoke_run, dataset):
    results = [evaluate_reconstruction(smoke_run.autoencoder, dataset, min_area=2, batch_size=n) for n in (1, 3, 4)]
    assert results[0]["miou"] == pytest.approx(results[2]["miou"], abs=0.01)
    assert results[1]["class_agnostic"]["All"]["pq"] == pytest.approx(
        results[2]["class_agnostic"]["All"]["pq"], abs=0.01
    )


def test_one_map_through_the_autoencoder(smoke_run, dataset):
    ids = dataset[0]["ids"]
    assert np.array_equal(reconstruct(OneHot(), ids), ids.numpy())
    with torch.no_grad():
        logits = smoke_run.autoencoder.decode(smoke_run.autoencoder.encode(ids[None]).mean)[0]
    expected = instances_from_logits(logits, size=tuple(ids.shape), threshold=0.2, min_area=5)
    assert np.array_equal(reconstruct(smoke_run.autoencoder, ids, threshold=0.2, min_area=5), expected.numpy())
