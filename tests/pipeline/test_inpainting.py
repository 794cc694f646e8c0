"""Inpainting keeps what is known, never sees what is hidden, and gives back the truth when the network knows it."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.core.profiles import Profile
from ldmseg_lib.core.randomness import torch_generator
from ldmseg_lib.diffusion.schedulers import NoiseSchedule
from ldmseg_lib.models.autoencoder import build_autoencoder
from ldmseg_lib.models.denoiser import build_denoiser
from ldmseg_lib.models.image_encoders import build_image_encoder
from ldmseg_lib.pipeline.inpainting import KnownLatents, classified, completed
from ldmseg_lib.pipeline.ldmseg import LDMSegPipeline
from ldmseg_lib.pipeline.output import PanopticOutput
from ldmseg_lib.pipeline.prompts import Prompt, nearest_label, read_prompt, whole_cells
from tests.pipeline.perfect_model import (
    CATEGORIES,
    CELLS,
    NUM_IDS,
    SIDE,
    at_size,
    features_of,
    perfect_pipeline,
    scene,
)


@pytest.fixture(scope="module")
def untrained() -> LDMSegPipeline:
    """Real networks with random weights, for images of 32 px: what they say means nothing, how they are used does."""
    profile = Profile.load("smoke")
    torch.manual_seed(0)
    return LDMSegPipeline(
        build_autoencoder(profile).eval(),
        build_denoiser(profile).eval(),
        build_image_encoder(profile).eval(),
        image_size=32,
        categories=CATEGORIES,
        prediction_type="sample",
        min_area=0,
    )


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photo(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def some_ids(size: tuple[int, int], names: list[int], seed: int = 0) -> np.ndarray:
    """A map of patches of 5 px, each with one of `names`."""
    draw = np.random.default_rng(seed)
    rows, columns = (np.arange(length) // 5 for length in size)
    return np.array(names)[draw.integers(len(names), size=(rows[-1] + 1, columns[-1] + 1))][rows[:, None], columns]


def some_known(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Everything but a rectangle and a few single pixels."""
    draw = np.random.default_rng(seed)
    known = draw.random(size) > 0.01
    known[size[0] // 4 : 3 * size[0] // 4, size[1] // 3 :] = False
    return known


def partition(ids: np.ndarray) -> set[frozenset[int]]:
    """The segments as sets of pixels, whatever their ids."""
    return {frozenset(np.flatnonzero(ids == i).tolist()) for i in np.unique(ids) if i}


def assert_equal(one: PanopticOutput, other: PanopticOutput) -> None:
    for mine, theirs in zip(one.ids, other.ids, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for mine, theirs in zip(one.semantic, other.semantic, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert one.segments == other.segments


@pytest.mark.parametrize("size", [(64, 64), (128, 96)])
@pytest.mark.parametrize("seed", range(4))
def test_a_network_that_knows_the_truth_restores_it(size: tuple[int, int], seed: int) -> None:
    cells = scene(seed)
    names = np.array([0, *np.random.default_rng(seed).choice(2**24 - 1, 7, replace=False) + 1])
    truth = at_size(names[cells], size)
    known = at_size(np.random.default_rng(seed + 9).random((CELLS, CELLS)) > 0.7, size)
    known &= truth != names[cells[8, 8]]  # one segment at least is hidden as a whole
    segments = [{"id": int(names[k]), "category_id": CATEGORIES[k % 3]["id"]} for k in range(1, 8)]
    output = perfect_pipeline().inpaint(
        features_of(cells, size), truth, known, num_inference_steps=4, generator=generator(seed), segments=segments
    )
    found = output.instance_ids[0]
    assert partition(found) == partition(truth)
    visible = set(np.unique(truth[known]).tolist())
    for name in np.unique(truth):
        (new,) = np.unique(found[truth == name])
        assert new == name if name in visible else (1 <= new < NUM_IDS and new not in visible)
    wanted = {segment["id"]: segment["category_id"] for segment in segments}
    for segment in output.segments[0]:
        (name, *others) = np.unique(truth[output.ids[0] == segment["id"]])
        assert segment["category_id"] == wanted[int(name)]
        assert segment["area"] == (output.ids[0] == segment["id"]).sum()
        assert not others or segment["category_id"] == 33, "only stuff of one class is merged"


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (50, 37), (20, 90), (7, 5)])
def test_known_pixels_keep_their_ids_exactly(untrained: LDMSegPipeline, size: tuple[int, int]) -> None:
    ids = some_ids(size, [0, 1, 3, 70_000, 2**24 - 1])
    known = some_known(size)
    output = untrained.inpaint(
        untrained.encode_image(photo(size)), ids, known, num_inference_steps=3, num_candidates=3, generator=generator()
    )
    assert len(output) == 3
    given_ids = {int(i) for i in np.unique(ids[known])}
    for found, segments in zip(output.ids, output.segments, strict=True):
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found[known], ids[known])
        new = {int(i) for i in np.unique(found)} - given_ids
        assert all(1 <= i < untrained.num_ids for i in new - {0})
        assert {s["id"]: s["area"] for s in segments} == {
            int(i): int((found == i).sum()) for i in np.unique(found) if i
        }
        assert all(s["category_id"] in (11, 22, 33) for s in segments)


@pytest.mark.parametrize("size", [(32, 32), (50, 37)])
def test_labels_of_hidden_pixels_change_nothing(untrained: LDMSegPipeline, size: tuple[int, int]) -> None:
    ids, known = some_ids(size, [4, 5, 9, 70_000]), some_known(size)
    scrambled = np.where(known, ids, some_ids(size, [1, 2, 5, 2**24 - 1, -7], seed=5))
    features = untrained.encode_image(photo(size))
    segments = [{"id": 4, "category_id": 11}, {"id": 9, "category_id": 33}]
    answers = [
        untrained.inpaint(
            features, given, known, num_inference_steps=4, num_candidates=2, generator=generator(), segments=described
        )
        for given, described in ((ids, segments), (scrambled, [*segments, {"id": 1, "category_id": 22}]))
    ]
    assert_equal(*answers)


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 2, 4, 8]), st.floats(0, 0.2), st.integers(0, 2**31))
@settings(max_examples=80, deadline=None)
def test_a_cell_is_known_only_where_its_whole_block_is(height, width, factor, hidden, seed) -> None:
    labelled = np.random.default_rng(seed).random((height, width)) >= hidden
    cells = whole_cells(labelled, side=32, factor=factor)
    count = 32 // factor
    for row, column in np.argwhere(cells):
        # the pixels whose centres lie in the cell
        inside = [
            np.flatnonzero(
                (np.arange(length) + 0.5 >= place * length / count)
                & (np.arange(length) + 0.5 < (place + 1) * length / count)
            )
            for length, place in ((height, row), (width, column))
        ]
        assert labelled[np.ix_(*inside)].all()
    assert whole_cells(np.ones_like(labelled), side=32, factor=factor).all()


def test_one_hidden_pixel_frees_its_own_cell_alone() -> None:
    labelled = np.ones((64, 64), bool)
    labelled[13, 22] = False
    assert np.argwhere(~whole_cells(labelled, side=64, factor=4)).tolist() == [[3, 5]]


def test_known_cells_are_at_the_noise_level_of_each_step_and_clean_in_the_self_condition() -> None:
    cells, pipeline = scene(1), perfect_pipeline(tasks=("instance",))
    known = at_size(np.arange(CELLS * CELLS).reshape(CELLS, CELLS) % 5 > 0, (SIDE, SIDE))
    pipeline.inpaint(
        features_of(cells, (SIDE, SIDE)),
        at_size(cells, (SIDE, SIDE)),
        known,
        num_inference_steps=5,
        num_candidates=6,
        generator=generator(),
    )
    abar = NoiseSchedule().alphas_cumprod
    calls, held = pipeline.denoiser.calls, torch.from_numpy(known[::4, ::4])
    clean = calls[1][1]
    noises = []
    for noisy, condition, t in calls:
        noise = ((noisy - abar[t].sqrt() * clean) / (1 - abar[t]).sqrt())[..., held]
        assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03, t
        noises.append(noise.flatten())
        if condition.any():
            assert torch.equal(condition[..., held], clean[..., held])
    assert len(calls) == 5
    correlation = torch.corrcoef(torch.stack(noises))
    assert (correlation - torch.eye(5)).abs().max() < 0.05, "each step draws its own noise"


def test_noise_of_a_sample_comes_from_its_own_generator() -> None:
    latents, cells = torch.randn(3, 4, 8, 8), torch.rand(3, 1, 8, 8) > 0.5
    sample = torch.randn(3, 4, 8, 8)
    together = KnownLatents(latents, cells, [generator(k) for k in range(3)])
    alone = KnownLatents(latents[1:2], cells[1:2], [generator(1)])
    for t in (999, 500, 3):
        noisy = together.noisy(sample, t)
        assert torch.equal(noisy[1:2], alone.noisy(sample[1:2], t))
        assert torch.equal(noisy.where(~cells, 0), sample.where(~cells, 0))
    end = together.noisy(sample, None)
    assert torch.equal(end, torch.where(cells, latents, sample))


def test_a_seed_fixes_every_candidate_whatever_their_number(untrained: LDMSegPipeline) -> None:
    size = (32, 32)
    ids, known = some_ids(size, [1, 2, 3]), some_known(size)
    features = untrained.encode_image(photo(size))

    def answers(count: int, seed: int) -> list[np.ndarray]:
        settings_ = {"num_inference_steps": 4, "num_candidates": count, "generator": generator(seed)}
        return untrained.inpaint(features, ids, known, **settings_).ids

    once, again, fewer = answers(4, 7), answers(4, 7), answers(2, 7)
    for mine, same in zip(once, again, strict=True):
        np.testing.assert_array_equal(mine, same)
    for mine, same in zip(once, fewer):
        assert (mine == same).mean() > 0.999  # the size of a batch moves the last bits of floating point
    assert len({answer.tobytes() for answer in once}) > 1, "candidates differ"
    assert any((a != b).any() for a, b in zip(once, answers(4, 8)))


def test_other_names_give_the_same_result_under_these_names(untrained: LDMSegPipeline) -> None:
    size, names = (32, 32), {0: 0, 1: 900, 2: 31, 3: 2**24 - 1}
    ids, known = some_ids(size, [0, 1, 2, 3]), some_known(size)
    renamed = np.vectorize(names.get)(ids)
    features = untrained.encode_image(photo(size))
    one, other = (
        untrained.inpaint(features, given, known, num_inference_steps=4, generator=generator()).ids[0]
        for given in (ids, renamed)
    )
    for old, new in names.items():
        if old:
            np.testing.assert_array_equal(one == old, other == new)
    assert partition(one) == partition(other)


def test_where_nothing_is_known_it_is_plain_segmentation(untrained: LDMSegPipeline) -> None:
    size = (32, 32)
    features = untrained.encode_image(photo(size))
    output = untrained.inpaint(
        features,
        np.full(size, 3),
        np.zeros(size, bool),
        num_inference_steps=4,
        generator=[torch_generator(5)],
    )
    latents = untrained.predict(features, num_inference_steps=4, sampler="ddpm", generators=[torch_generator(5)])
    plain = untrained.decode(latents, [size], threshold=0.0, min_area=0)
    assert partition(output.instance_ids[0]) == partition(plain.instance_ids[0])
    np.testing.assert_array_equal(output.semantic[0], plain.semantic[0])


def test_where_everything_is_known_it_comes_back(untrained: LDMSegPipeline) -> None:
    size = (50, 37)
    ids = some_ids(size, [0, 5, 2**24 - 1])
    segments = [{"id": 5, "category_id": 33}, {"id": 2**24 - 1, "category_id": 11}]
    output = untrained.inpaint(
        untrained.encode_image(photo(size)), ids, np.ones(size, bool), num_inference_steps=2, segments=segments
    )
    np.testing.assert_array_equal(output.ids[0], ids)
    assert [(s["id"], s["category_id"]) for s in output.segments[0]] == [(5, 33), (2**24 - 1, 11)]


def prompt_of(ids: np.ndarray, known: np.ndarray, classes: dict[int, int]) -> Prompt:
    """A prompt whose model ids are those given."""
    table = np.zeros(NUM_IDS, np.int64)
    for segment, index in classes.items():
        table[segment] = index
    visible = np.where(known, ids, 0)
    return Prompt(visible, known, {int(i): int(i) for i in np.unique(visible) if i}, table)


def test_classes_are_voted_for_what_changed_and_kept_for_what_did_not() -> None:
    # columns: segment 1 known and untouched, 2 known and grown, 6 new and a thing, 7 new and stuff like segment 4
    known = np.repeat([[True, True, False, False, False, True]], 4, axis=0)
    final = np.repeat([[1, 2, 2, 6, 7, 4]], 4, axis=0)
    semantic = np.repeat([[2, 2, 2, 1, 3, 3]], 4, axis=0)
    prompt = prompt_of(final, known, {1: 1, 2: 1, 4: 3})
    ids, classes = classified(prompt, final, semantic, num_classes=4, stuff=(3,))
    assert ids[0].tolist() == [1, 2, 2, 6, 4, 4]
    assert classes == {1: 1, 2: 2, 4: 3, 6: 1}


def test_known_segments_of_one_stuff_class_are_not_merged() -> None:
    known = np.array([[True, True, False, False]])
    final = np.array([[2, 5, 9, 10]])
    ids, classes = classified(prompt_of(final, known, {}), final, np.full((1, 4), 3), num_classes=4, stuff=(3,))
    assert ids.tolist() == [[2, 5, 2, 2]]
    assert classes == {2: 3, 5: 3}


def test_small_new_segments_join_the_nearest_segment_and_small_known_ones_stay() -> None:
    known = np.array([[True, False, False, False, False, False, False]])
    found = np.array([[3, 7, 7, 7, 0, 8, 8]])
    prompt = prompt_of(np.array([[1, 9, 9, 9, 9, 9, 9]]), known, {})
    assert completed(prompt, found, min_area=3).tolist() == [[1, 7, 7, 7, 0, 7, 7]]
    assert completed(prompt, found, min_area=9).tolist() == [[1, 1, 1, 1, 0, 1, 1]]


def test_without_a_semantic_task_classes_are_those_given() -> None:
    cells, pipeline = scene(2), perfect_pipeline(tasks=("instance",))
    truth = at_size(cells, (SIDE, SIDE))
    known = truth != 5
    known[:, 40:] = False
    output = pipeline.inpaint(
        features_of(cells, (SIDE, SIDE)),
        truth,
        known,
        num_inference_steps=3,
        segments=[{"id": 1, "category_id": 33, "isthing": 0}, {"id": 5, "category_id": 11}],
    )
    categories = {segment["id"]: segment["category_id"] for segment in output.segments[0]}
    assert categories.pop(1) == 33
    assert set(categories.values()) == {None}, (
        "what is hidden as a whole has no class, whatever `segments` says of its id"
    )
    assert output.semantic == [None]


def test_a_category_that_the_model_does_not_know_stays_where_nothing_changed() -> None:
    cells = scene(3)
    truth = at_size(cells, (SIDE, SIDE))
    known = truth != 3
    output = perfect_pipeline().inpaint(
        features_of(cells, (SIDE, SIDE)),
        truth,
        known,
        num_inference_steps=3,
        segments=[{"id": 2, "category_id": 4711, "isthing": 1}],
    )
    assert {s["id"]: (s["category_id"], s["isthing"]) for s in output.segments[0]}[2] == (4711, 1)


def test_steps_are_reported_and_can_be_cancelled(untrained: LDMSegPipeline) -> None:
    size = (32, 32)
    features, seen = untrained.encode_image(photo(size)), []

    class Stop(Exception):
        pass

    def watch(step: int, total: int) -> None:
        seen.append((step, total))
        if step == 3:
            raise Stop

    with pytest.raises(Stop):
        untrained.inpaint(features, some_ids(size, [1, 2]), some_known(size), num_inference_steps=6, callback=watch)
    assert seen == [(0, 6), (1, 6), (2, 6), (3, 6)]


def test_resampling_runs_each_step_but_the_last_again() -> None:
    cells, pipeline = scene(4), perfect_pipeline(tasks=("instance",))
    truth = at_size(cells, (SIDE, SIDE))
    known = at_size(np.random.default_rng(0).random((CELLS, CELLS)) > 0.5, (SIDE, SIDE))
    arguments: dict[str, Any] = {"num_inference_steps": 4, "generator": generator(), "resamplings": 3}
    output = pipeline.inpaint(features_of(cells, (SIDE, SIDE)), truth, known, **arguments)
    assert [t for _, _, t in pipeline.denoiser.calls] == [999] * 3 + [749] * 3 + [499] * 3 + [249]
    assert partition(output.instance_ids[0]) == partition(truth)
    with pytest.raises(InputError, match="ddim"):
        pipeline.inpaint(features_of(cells, (SIDE, SIDE)), truth, known, sampler="unipc", **arguments)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmsolver++", "unipc", "consistency"])
def test_every_sampler_restores_what_the_network_knows(sampler: str) -> None:
    cells = scene(5)
    truth = at_size(cells, (SIDE, SIDE))
    known = at_size(np.random.default_rng(1).random((CELLS, CELLS)) > 0.5, (SIDE, SIDE))
    output = perfect_pipeline().inpaint(
        features_of(cells, (SIDE, SIDE)), truth, known, num_inference_steps=6, sampler=sampler, generator=generator()
    )
    np.testing.assert_array_equal(output.instance_ids[0], truth)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": np.zeros((32, 31), int)}, "own size"),
        ({"ids": np.zeros((32, 32), float)}, "whole numbers"),
        ({"ids": np.full((32, 32), -1)}, "0 .. 2"),
        ({"ids": np.full((32, 32), 2**31)}, "0 .. 2"),
        ({"ids": np.arange(1024).reshape(32, 32)}, "room for 15"),
        ({"known": np.ones((32, 32), int)}, "give bools"),
        ({"known": np.ones((32, 31), bool)}, "shape"),
        ({"num_candidates": 0}, "num_candidates"),
        ({"num_candidates": 3, "generator": [generator()]}, "1 generators for 3"),
        ({"sampler": "euler"}, "unknown sampler"),
    ],
)
def test_bad_input_is_named(untrained: LDMSegPipeline, changes: dict[str, Any], message: str) -> None:
    features = untrained.encode_image(photo((32, 32)))
    arguments = {"ids": np.ones((32, 32), int), "known": np.ones((32, 32), bool), "num_inference_steps": 2} | changes
    with pytest.raises(InputError, match=message):
        untrained.inpaint(features, arguments.pop("ids"), arguments.pop("known"), **arguments)


def test_features_of_two_images_are_refused(untrained: LDMSegPipeline) -> None:
    features = untrained.encode_image([photo((32, 32)), photo((32, 32))])
    with pytest.raises(InputError, match="2 images"):
        untrained.inpaint(features, np.ones((32, 32), int), np.ones((32, 32), bool))


def test_known_ids_are_drawn_over_the_models_whole_range() -> None:
    ids, known = some_ids((20, 20), [1, 2, 3]), np.ones((20, 20), bool)
    prompts = [read_prompt(ids, known, num_ids=8, generator=generator(seed)) for seed in range(60)]
    drawn = {frozenset(prompt.given_ids) for prompt in prompts}
    assert set().union(*drawn) == set(range(1, 8))
    for prompt in prompts:
        np.testing.assert_array_equal(prompt.names(prompt.ids)[prompt.ids], ids)


def test_the_nearest_known_label() -> None:
    ids = np.array([[1, 9, 9, 9, 2], [1, 9, 9, 9, 2]])
    known = np.array([[True, False, False, False, True]] * 2)
    known[0, 3] = True
    assert nearest_label(ids, known).tolist() == [[1, 1, 9, 9, 2], [1, 1, 9, 9, 2]]
    assert not nearest_label(ids, np.zeros_like(known)).any()
