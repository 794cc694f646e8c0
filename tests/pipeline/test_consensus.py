"""Votes of several samples of one image, and the pipeline that takes them."""

import numpy as np
import psutil
import pytest
import torch

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.core.randomness import torch_generator
from ldmseg_lib.pipeline.consensus import agreement_with, consensus_of, majority, sample_agreement, without_small
from ldmseg_lib.pipeline.denoising import plan_batches
from ldmseg_lib.pipeline.output import PanopticOutput

TRUE = np.array([[1, 1, 2, 2]] * 4)
CATEGORIES = [{"id": 5, "name": "ball", "isthing": 1}, {"id": 6, "name": "floor", "isthing": 0}]


def test_samples_that_only_number_differently_agree_everywhere():
    found = sample_agreement([TRUE, np.where(TRUE == 1, 7, 3), np.where(TRUE == 1, 2, 1)])
    assert (found.share == 1).all()
    assert len(np.unique(found.consensus)) == 2 and (found.consensus[:, 0] != found.consensus[:, 3]).all()


def test_the_odd_one_out_is_voted_down_where_it_differs():
    odd = np.array([[1, 1, 1, 2]] * 4)
    found = sample_agreement([odd, TRUE, TRUE * 3])
    assert found.reference in (1, 2)
    assert (found.share[:, 2] == pytest.approx(2 / 3)) and (found.share[:, [0, 1, 3]] == 1).all()
    assert (found.consensus[:, 1] != found.consensus[:, 2]).all()


def test_void_wins_where_most_samples_say_so():
    void = TRUE * (TRUE == 1)
    found = sample_agreement([void, void, TRUE])
    assert (found.consensus[:, 2:] == 0).all() and (found.consensus[:, :2] > 0).all()


def test_samples_of_other_sizes_are_refused():
    with pytest.raises(InputError, match="one size"):
        sample_agreement([TRUE, TRUE[:2]])
    with pytest.raises(InputError, match="at least one"):
        sample_agreement([])


def test_small_segments_of_a_vote_become_void():
    ids = np.array([[1, 1, 1, 2]])
    assert without_small(ids, 2).tolist() == [[1, 1, 1, 0]] and without_small(ids, 1).tolist() == ids.tolist()


def test_majority_of_classes():
    assert majority([np.array([[1, 2]]), np.array([[1, 3]]), np.array([[2, 3]])]).tolist() == [[1, 3]]


def test_the_agreement_with_a_map_does_not_depend_on_its_numbers():
    late = np.array([[1, 1, 1, 2]] * 4)
    share = agreement_with(TRUE, [TRUE * 3, late, TRUE])
    assert share.dtype == np.float32 and np.allclose(share[0], [1, 1, 2 / 3, 1])


def output(ids: np.ndarray, classes: np.ndarray, depth: float) -> PanopticOutput:
    return PanopticOutput(
        ids=[ids],
        segments=[[]],
        instance_ids=[ids],
        semantic=[classes],
        depth=[np.full(ids.shape, depth, np.float32)],
        categories=CATEGORIES,
        maps={"flag": [(classes == 1).astype(np.int32)]},
    )


def test_a_consensus_has_everything_that_its_samples_have():
    """Ids and classes by vote, equal stuff merged, depth as the mean, the share of samples that say so."""
    late = np.array([[1, 1, 1, 2]] * 4)
    floor, ball = np.full((4, 4), 2), np.full((4, 4), 1)
    found = consensus_of([output(TRUE, floor, 0), output(late, floor, 3), output(TRUE * 2, ball, 3)], min_area=1)
    assert len(np.unique(found.instance_ids[0])) == 2 and len(found) == 1
    assert (found.semantic[0] == 2).all() and (found.ids[0] == found.ids[0][0, 0]).all()
    assert [s["category_id"] for s in found.segments[0]] == [6]
    assert (found.depth[0] == 2).all() and (found.maps["flag"][0] == 0).all()
    assert np.allclose(found.agreement[0][0], [1, 1, 2 / 3, 1])


def pictures() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((32, 32), (20, 40), (16, 16))]


def streams(count: int = 3) -> list[torch.Generator]:
    return [torch_generator("consensus", i) for i in range(count)]


@pytest.mark.parametrize("batch_size", [16, 4, 1])
def test_several_samples_of_the_pipeline_vote(smoke_pipeline, batch_size):
    settings = {"num_inference_steps": 2, "threshold": 0.0, "min_area": 0}
    found = smoke_pipeline(pictures(), num_samples=3, generator=streams(), batch_size=batch_size, **settings)
    for index, image in enumerate(pictures()):
        features = smoke_pipeline.encode_image(image)
        drawn = [streams()[index], *(torch_generator(streams()[index].initial_seed(), "sample", k) for k in (1, 2))]
        latents = smoke_pipeline.predict(features.take([0, 0, 0]), num_inference_steps=2, generators=drawn)
        samples = smoke_pipeline.decode(latents, features.sizes * 3, threshold=0.0, min_area=0)
        expected = sample_agreement(samples.instance_ids)
        assert (found.instance_ids[index] == expected.consensus).mean() > 0.99
        assert np.abs(found.agreement[index] - expected.share).mean() < 0.01


def test_the_first_sample_is_the_one_that_is_taken_alone(smoke_pipeline):
    settings = {"num_inference_steps": 2, "threshold": 0.0, "min_area": 0}
    alone = smoke_pipeline(pictures(), generator=streams(), **settings)
    assert alone.agreement == []
    latents = smoke_pipeline.sample(pictures(), generators=streams(), num_samples=2, num_inference_steps=2)
    single = smoke_pipeline.sample(pictures(), generators=streams(), num_inference_steps=2)
    assert torch.allclose(latents["instance"][::2], single["instance"], atol=1e-5)
    assert not torch.allclose(latents["instance"][1::2], single["instance"], atol=1e-2)


def test_tiles_are_joined_before_samples_vote(smoke_pipeline):
    image = np.random.default_rng(1).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    settings = {"num_inference_steps": 2, "threshold": 0.0, "min_area": 0, "generator": streams(1)[0]}
    found = smoke_pipeline(image, tile_size=32, num_samples=2, **settings)
    assert found.ids[0].shape == (40, 48) and 0 < found.agreement[0].min() <= found.agreement[0].max() <= 1


def test_candidates_say_how_many_of_them_agree(smoke_pipeline):
    features = smoke_pipeline.encode_image(pictures()[0])
    ids = np.zeros((32, 32), np.int64)
    ids[:16] = 1
    found = smoke_pipeline.inpaint(
        features, ids, ids > 0, num_inference_steps=2, num_candidates=3, generator=streams(), min_area=0
    )
    for candidate, share in zip(found.instance_ids, found.agreement, strict=True):
        assert share.shape == (32, 32) and share.min() >= 1 / 3 - 1e-6
        assert (share[candidate == 1][:1] > 0).all()


@pytest.mark.parametrize(("count", "num_samples", "batch_size"), [(5, 1, 2), (3, 4, 16), (2, 7, 3), (4, 2, 5)])
def test_batches_hold_every_sample_once_and_no_more_than_fit(count, num_samples, batch_size):
    plan = plan_batches(count, num_samples, batch_size)
    batches = [batch for _, parts in plan for batch in parts]
    assert [job for batch in batches for job in batch] == [(i, k) for i in range(count) for k in range(num_samples)]
    assert max(map(len, batches)) <= batch_size
    assert all({row for batch in parts for row, _ in batch} == {*rows} for rows, parts in plan)


def test_no_sample_or_more_than_memory_holds_is_refused(smoke_pipeline, monkeypatch):
    with pytest.raises(InputError, match="num_samples is 0; give 1"):
        smoke_pipeline(pictures(), num_samples=0)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 32 * 32 * 32 * 10}))
    with pytest.raises(InputError, match=r"11 samples of an image of 1024 pixels .* set num_samples to 10 or less"):
        smoke_pipeline(pictures(), num_samples=11)
