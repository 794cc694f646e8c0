"""Scores of a pipeline: perfect predictions score 1, and what is asked of the sampler does not change them."""

import numpy as np
import pytest
import torch

from ldmseg_lib.data.splits import validation_split
from ldmseg_lib.experiments.segmentation import (
    ARG_MAX,
    Cleaning,
    SegmentationScores,
    evaluate_segmentation,
    instance_maps,
    sample_split,
    semantic_map,
)
from ldmseg_lib.pipeline.output import PanopticOutput


@pytest.fixture(scope="module")
def dataset(smoke_profile, smoke_data):
    return validation_split(smoke_profile, smoke_data)


def perfect(dataset, places) -> PanopticOutput:
    """What a model without fault would say: the ground truth under other ids."""
    output = PanopticOutput(categories=dataset.categories)
    for place in places:
        truth = dataset.ground_truth(place)
        ids = np.zeros(truth.ids.shape, np.int32)
        segments = []
        for number, segment in enumerate(truth.segments, start=1):
            ids[truth.ids == segment["id"]] = number
            segments.append({"id": number, "category_id": segment["category_id"]})
        one = PanopticOutput(
            [ids], [segments], [ids], [semantic_map(truth, dataset.class_index)], [None], dataset.categories
        )
        output.extend(one)
    return output


def scored(dataset, output: PanopticOutput) -> dict:
    scores = SegmentationScores(dataset)
    for place in range(len(output)):
        scores.update(dataset.ground_truth(place), output, place)
    return scores.compute()


def test_a_perfect_model_scores_1(dataset):
    result = scored(dataset, perfect(dataset, range(len(dataset))))
    assert result["class_agnostic"]["All"]["pq"] == 1
    assert result["panoptic"]["All"]["pq"] == result["panoptic"]["Things"]["pq"] == 1
    assert result["panoptic"]["Stuff"]["pq"] == 1 and result["miou"] == 1


def test_a_model_that_sees_nothing_scores_0(dataset):
    output = perfect(dataset, range(len(dataset)))
    for place in range(len(output)):
        nothing = np.zeros_like(output.ids[place])
        output.ids[place] = output.instance_ids[place] = output.semantic[place] = nothing
        output.segments[place] = []
    result = scored(dataset, output)
    assert result["class_agnostic"]["All"]["pq"] == result["panoptic"]["All"]["pq"] == result["miou"] == 0


def test_wrong_classes_cost_panoptic_quality_and_nothing_else(dataset):
    output = perfect(dataset, range(len(dataset)))
    ids = [category["id"] for category in dataset.categories]
    following = dict(zip(ids, [*ids[1:], ids[0]]))
    for segments in output.segments:
        for segment in segments:
            segment["category_id"] = following[segment["category_id"]]
    result = scored(dataset, output)
    assert result["class_agnostic"]["All"]["pq"] == result["miou"] == 1
    assert result["panoptic"]["All"]["pq"] < 0.2


def test_class_agnostic_quality_is_that_of_the_ids_before_stuff_was_merged(dataset):
    """Two floors found as two segments are two segments, though the panoptic map has one."""
    whole, split = (perfect(dataset, range(1)) for _ in range(2))
    ids = whole.ids[0].copy()
    largest = np.bincount(ids.ravel()).argmax()
    rows, _ = np.nonzero(ids == largest)
    half = (ids == largest) & (np.arange(len(ids))[:, None] > np.median(rows))
    split.instance_ids[0] = np.where(half, ids.max() + 1, ids)
    result = scored(dataset, split)
    assert result["panoptic"]["All"]["pq"] == 1
    assert result["class_agnostic"]["All"]["pq"] < scored(dataset, whole)["class_agnostic"]["All"]["pq"] == 1


def test_the_semantic_map_has_each_segment_s_class(dataset):
    truth = dataset.ground_truth(0)
    classes = semantic_map(truth, dataset.class_index)
    assert classes.shape == truth.ids.shape
    for segment in truth.segments:
        assert (classes[truth.ids == segment["id"]] == dataset.class_index[segment["category_id"]]).all()
    assert ((classes == 0) == (truth.ids == 0)).all()


def test_samples_do_not_depend_on_the_batch_or_on_other_images(smoke_pipeline, dataset):
    def latents(**settings):
        groups = sample_split(smoke_pipeline, dataset, seed=3, num_inference_steps=2, progress=False, **settings)
        found = {}
        for group in groups:
            for row, truth in enumerate(group.truths):
                found[truth.image_id] = torch.stack([group.latents[task][row] for task in ("instance", "semantic")])
        return found

    whole = latents(batch_size=4)
    for other in (latents(batch_size=1), latents(batch_size=3), latents(batch_size=2, indices=[2, 1])):
        assert all(torch.allclose(z, whole[image_id], atol=1e-4) for image_id, z in other.items())
    assert set(whole) == set(dataset.image_ids)


def test_another_seed_samples_otherwise(smoke_pipeline, dataset):
    first, second = (
        next(iter(sample_split(smoke_pipeline, dataset, seed=s, num_inference_steps=2, batch_size=2, progress=False)))
        for s in (0, 1)
    )
    assert not torch.allclose(first.latents["instance"], second.latents["instance"], atol=1e-2)


def test_estimates_of_every_step_are_kept_if_asked_for(smoke_pipeline, dataset):
    settings = {"seed": 0, "num_inference_steps": 3, "batch_size": 3, "progress": False}
    groups = list(sample_split(smoke_pipeline, dataset, keep_estimates=True, **settings))
    assert [len(group.truths) for group in groups] == [3, 1]
    for group in groups:
        assert len(group.estimates) == 3
        assert all(torch.equal(group.estimates[-1][task], group.latents[task]) for task in group.latents)
        assert [truth.ids.shape for truth in group.truths] == group.sizes
    assert all(group.estimates == [] for group in sample_split(smoke_pipeline, dataset, **settings))


def test_every_cleaning_is_scored_on_the_same_samples(smoke_pipeline, dataset):
    cleanings = {"arg max": ARG_MAX, "again": ARG_MAX, "nothing left": Cleaning(threshold=1.0, min_area=10_000)}
    scores, outputs = evaluate_segmentation(
        smoke_pipeline, dataset, seed=0, num_inference_steps=2, batch_size=4, cleanings=cleanings
    )
    assert scores["arg max"] == scores["again"]
    assert all(np.array_equal(a, b) for a, b in zip(outputs["arg max"].ids, outputs["again"].ids))
    assert scores["nothing left"]["class_agnostic"]["All"]["pq"] == 0
    assert scores["nothing left"]["miou"] == scores["arg max"]["miou"]
    assert all(len(output) == len(dataset) for output in outputs.values())
    assert scored(dataset, outputs["arg max"]) == scores["arg max"]


def test_predictions_go_to_disk_batch_by_batch(smoke_pipeline, dataset, tmp_path, monkeypatch):
    """The same files as from whole predictions, without ever holding more than a batch."""
    settings = {"seed": 0, "num_inference_steps": 1, "batch_size": 3, "cleanings": {"raw": ARG_MAX, "other": ARG_MAX}}
    expected, outputs = evaluate_segmentation(smoke_pipeline, dataset, **settings)
    for name, output in (("predictions", outputs["raw"]), ("instances", instance_maps(outputs["raw"]))):
        output.save_coco(tmp_path / "a" / f"{name}.json", tmp_path / "a" / name, image_ids=dataset.image_ids)
    (tmp_path / "a" / "predictions").rename(tmp_path / "a" / "png")
    sizes, extend = [], PanopticOutput.extend
    monkeypatch.setattr(PanopticOutput, "extend", lambda self, o: (extend(self, o), sizes.append(len(self))))
    scores, kept = evaluate_segmentation(smoke_pipeline, dataset, save_to={"raw": tmp_path / "b"}, **settings)
    assert scores == expected and kept == {} and max(sizes) == 3
    files = [sorted(p.relative_to(tmp_path / x) for p in (tmp_path / x).rglob("*.*")) for x in "ab"]
    assert files[0] == files[1] and len(files[0]) == 2 + 2 * len(dataset)
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files[0])
