"""Scores by segment size: of a pipeline and of an autoencoder, on images at their own size."""

import numpy as np
import pytest

from ldmseg_lib.data.splits import validation_split
from ldmseg_lib.experiments.components.size_scores import SizeScores, score_reconstruction, score_segmentation
from ldmseg_lib.experiments.segmentation import Cleaning, evaluate_segmentation

EDGES = (0, 16, 64, 256)


@pytest.fixture(scope="module")
def dataset(smoke_profile, smoke_data):
    return validation_split(smoke_profile, smoke_data)


def test_the_truth_scores_one_in_every_range(dataset):
    scores = SizeScores(dataset, EDGES)
    for index in range(len(dataset)):
        truth = dataset.ground_truth(index)
        scores.update(truth, truth.ids)
    found = scores.compute()
    assert found["class_agnostic"]["pq"] == 1
    assert {size["pq"] for size in found["sizes"]} <= {1.0, None} and found["sizes"][-1]["pq"] == 1


def test_a_missed_segment_counts_in_its_own_range(dataset):
    scores, areas = SizeScores(dataset, EDGES), []
    for index in range(len(dataset)):
        truth = dataset.ground_truth(index)
        found, counts = np.unique(truth.ids[truth.ids != 0], return_counts=True)
        areas.append(counts.min())
        scores.update(truth, np.where(truth.ids == found[counts.argmin()], 0, truth.ids))
    missed = [size["fn"] for size in scores.compute()["sizes"]]
    places = np.searchsorted(EDGES, areas, side="right") - 1
    assert missed == np.bincount(places, minlength=len(EDGES)).tolist()


def test_segmentation_scores_are_those_of_the_one_evaluation(dataset, smoke_pipeline):
    sampling = {"seed": 3, "num_inference_steps": 2, "batch_size": 4, "sampler": "ddim"}
    cleaning = Cleaning(0.3, 2)
    ours = score_segmentation(smoke_pipeline, dataset, cleaning=cleaning, area_edges=EDGES, **sampling)
    theirs = evaluate_segmentation(smoke_pipeline, dataset, cleanings={"both": cleaning}, **sampling)[0]["both"]
    assert ours["class_agnostic"] == theirs["class_agnostic"]["All"] and ours["miou"] == theirs["miou"]
    assert (ours["panoptic"], ours["things"], ours["stuff"]) == tuple(
        theirs["panoptic"][group] for group in ("All", "Things", "Stuff")
    )
    totals = {key: sum(size[key] for size in ours["sizes"]) for key in ("tp", "fn")}
    segments = sum(len(dataset.ground_truth(i).segments) for i in range(len(dataset)))
    assert totals["tp"] + totals["fn"] == segments and ours["images"] == len(dataset)


def test_reconstruction_is_judged_at_the_images_own_size(dataset, smoke_run):
    scores = score_reconstruction(
        smoke_run.autoencoder, dataset, cleaning=Cleaning(0.0, 0), area_edges=EDGES, batch_size=3
    )
    segments = sum(len(dataset.ground_truth(i).segments) for i in range(len(dataset)))
    assert sum(size["tp"] + size["fn"] for size in scores["sizes"]) == segments
    assert 0 <= scores["class_agnostic"]["pq"] <= 1
