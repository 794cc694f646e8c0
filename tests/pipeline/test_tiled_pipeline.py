"""Images in tiles, with a model that makes no mistake and with real networks."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.core.profiles import Profile
from ldmseg_lib.data.panoptic import PanopticDataset
from ldmseg_lib.experiments.segmentation import ARG_MAX, Cleaning, evaluate_segmentation, sample_split
from ldmseg_lib.models.autoencoder import build_autoencoder
from ldmseg_lib.models.denoiser import build_denoiser
from ldmseg_lib.models.image_encoders import build_image_encoder
from ldmseg_lib.pipeline.ldmseg import LDMSegPipeline
from ldmseg_lib.pipeline.tiling import place_tiles
from tests.data.folders import empty_folder
from tests.pipeline.perfect_model import CATEGORIES, FACTOR, SIDE, perfect_pipeline
from tests.pipeline.test_tiling import partition

SIZE = (112, 96)


def scene(seed: int) -> np.ndarray:
    """Segments 1..12 of an image of SIZE: rectangles over one another, aligned with the tiles' latent cells."""
    draw = np.random.default_rng(seed)
    rows, columns = SIZE[0] // FACTOR, SIZE[1] // FACTOR
    truth = np.ones((rows, columns), np.int64)
    for segment in range(2, 13):
        top, left = draw.integers(0, rows - 4), draw.integers(0, columns - 4)
        truth[top : top + draw.integers(3, 14), left : left + draw.integers(3, 14)] = segment
    return np.kron(truth, np.ones((FACTOR, FACTOR), np.int64))


def picture(ids: np.ndarray) -> np.ndarray:
    """What the perfect model reads the segments from."""
    return np.repeat((ids * 20).astype(np.uint8)[..., None], 3, axis=-1)


def class_of(segment: int) -> int:
    """Category id of a segment, by the perfect model's rule."""
    return CATEGORIES[segment % 3]["id"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> PanopticDataset:
    folder = empty_folder(tmp_path_factory.mktemp("tiled") / "data", split="val")
    folder.document["categories"] = [dict(category) for category in CATEGORIES]
    for seed in range(3):
        ids = scene(seed)
        segments = [{"id": int(i), "category_id": class_of(int(i))} for i in np.unique(ids)]
        folder.add_image(ids, segments, image=picture(ids))
    folder.save()
    return PanopticDataset(folder.root, "val")


def quiet(pipeline: LDMSegPipeline) -> LDMSegPipeline:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("batch_size", [3, 16])
def test_a_large_image_is_segmented_whole_tile_by_tile(batch_size):
    pipeline, truths = quiet(perfect_pipeline()), [scene(seed) for seed in range(3)]
    output = pipeline(
        [picture(truth) for truth in truths], num_inference_steps=2, tile_size=SIDE, batch_size=batch_size
    )
    for index, truth in enumerate(truths):
        assert partition(output.instance_ids[index]) == partition(truth)
        assert np.array_equal(output.semantic[index], truth % 3 + 1)
        floor = truth % 3 == 2
        merged = np.where(floor & floor.any(), 99, truth)
        assert partition(output.ids[index]) == partition(merged)
        areas = {s["id"]: s["area"] for s in output.segments[index]}
        assert areas == dict(zip(*(v.tolist() for v in np.unique(output.ids[index], return_counts=True))))
        for segment in output.segments[index]:
            first = truth[output.ids[index] == segment["id"]][0]
            assert segment["category_id"] == class_of(int(first))


def test_the_pipelines_own_tile_size_is_the_default_and_0_is_the_whole_image():
    pipeline, image = quiet(perfect_pipeline()), picture(scene(0))
    tiles = len(place_tiles(SIZE, SIDE))
    entries = []
    for own, given in ((None, None), (SIDE, None), (SIDE, 0), (None, SIDE)):
        pipeline.register_to_config(tile_size=own)
        pipeline.denoiser.calls.clear()
        pipeline(image, num_inference_steps=2, tasks=("instance",), tile_size=given)
        entries.append(len(pipeline.denoiser.calls[0][0]))
    assert entries == [1, tiles, 1, tiles]


def test_each_tile_has_noise_of_its_own_that_no_batch_and_no_other_image_changes():
    pipeline, images = quiet(perfect_pipeline()), [picture(scene(seed)) for seed in range(2)]

    def noise(chosen, batch_size):
        streams = [torch.Generator().manual_seed(k) for k in chosen]
        pipeline.denoiser.calls.clear()
        pipeline.sample(
            [images[k] for k in chosen],
            generators=streams,
            tile_size=SIDE,
            batch_size=batch_size,
            tasks=["instance"],
            num_inference_steps=1,
        )
        return torch.cat([noisy for noisy, _, _ in pipeline.denoiser.calls])

    together = noise([0, 1], 16)
    assert len(together.flatten(1).unique(dim=0)) == len(together) == 8
    assert torch.equal(together, noise([0, 1], 3))
    assert torch.equal(together[4:], noise([1], 16))


def test_a_perfect_model_scores_1_on_tiles_and_estimates_decode_like_samples(scenes):
    pipeline = perfect_pipeline()
    settings = {"seed": 0, "num_inference_steps": 3, "batch_size": 4, "tile_size": SIDE}
    cleanings = {"arg max": ARG_MAX, "both": Cleaning(threshold=0.5, min_area=10)}
    scores, outputs = evaluate_segmentation(pipeline, scenes, cleanings=cleanings, **settings)
    for score in scores.values():
        assert score["class_agnostic"]["All"]["pq"] == 1
        assert score["panoptic"]["Things"]["pq"] == 1
        assert score["miou"] == 1
    groups = list(sample_split(pipeline, scenes, keep_estimates=True, **settings))
    assert [len(group.truths) for group in groups] == [1, 1, 1]
    for group, ids in zip(groups, outputs["arg max"].instance_ids):
        assert len(group.estimates) == 3
        last = group.decode(pipeline, ARG_MAX, group.estimates[-1])
        assert np.array_equal(last.instance_ids[0], ids)


def test_small_segments_are_judged_on_the_whole_image_not_in_a_tile():
    """A bar of 112 x 4 pixels: 256 of them in each tile, 448 in all."""
    ids = np.ones(SIZE, np.int64)
    ids[:, 40:44] = 2
    pipeline, settings = quiet(perfect_pipeline()), {"num_inference_steps": 2, "tile_size": SIDE}
    kept = [partition(pipeline(picture(ids), min_area=area, **settings).instance_ids[0]) for area in (448, 449)]
    assert kept == [partition(ids), partition(np.where(ids == 2, 0, ids))]


def test_latents_of_tiles_are_not_taken_for_latents_of_images():
    pipeline = perfect_pipeline()
    latents = pipeline.sample(
        [picture(scene(0))], generators=[torch.Generator()], tile_size=SIDE, num_inference_steps=1, tasks=["instance"]
    )
    with pytest.raises(InputError, match="4 latents of the task 'instance' for 1 images with 1 tiles"):
        pipeline.decode(latents, [SIZE])


def test_depth_in_tiles_is_refused():
    pipeline = perfect_pipeline()
    pipeline.depth_autoencoder = SimpleNamespace(from_latents=lambda latents: latents[:, :1])
    latents = {"depth": torch.zeros(4, 1, 16, 16)}
    with pytest.raises(InputError, match="depth is relative within each tile"):
        pipeline.decode(latents, [SIZE], tile_size=SIDE)


@pytest.mark.parametrize("tile_size", [None, 128])
def test_photographs_of_any_size_come_back_at_their_own_sizes(shared_data: Path, tmp_path: Path, tile_size: int | None):
    photographs = PanopticDataset(shared_data / "coco_permissive", "val", max_images=12)
    truths = [photographs.ground_truth(index) for index in range(12)]
    assert len({truth.ids.shape for truth in truths}) > 2
    profile = Profile.load("smoke")
    torch.manual_seed(0)
    encoder = build_image_encoder(profile)
    pipeline = LDMSegPipeline(
        build_autoencoder(profile).eval(),
        build_denoiser(profile, image_channels=encoder.out_channels).eval(),
        encoder.eval(),
        image_size=profile.data.image_size,
        categories=photographs.categories,
        prediction_type="sample",
        threshold=0.0,
        min_area=4,
        tile_size=tile_size,
        trained_on_photographs=True,
    )
    pipeline.save_pretrained(tmp_path / "pipeline")
    pipeline = quiet(LDMSegPipeline.from_pretrained(tmp_path / "pipeline"))
    assert pipeline.config.tile_size == tile_size
    output = pipeline([Image.fromarray(truth.image) for truth in truths], num_inference_steps=2)
    for truth, ids, instance_ids, semantic, segments in zip(
        truths, output.ids, output.instance_ids, output.semantic, output.segments, strict=True
    ):
        assert ids.shape == instance_ids.shape == semantic.shape == truth.ids.shape
        assert {s["id"] for s in segments} == set(np.unique(ids).tolist()) - {0}
        assert sum(s["area"] for s in segments) == (ids > 0).sum() > 0
