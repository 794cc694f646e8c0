"""Mask2Former's post-processing, beside the rule of its authors written out pixel by pixel."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ldmseg_lib.pipeline.query_segmentation import panoptic_from_queries, segment_images
from tests.models.tiny_mask2former import tiny_mask2former

CATEGORIES = [
    {"id": 7, "name": "box", "isthing": 1},
    {"id": 3, "name": "sky", "isthing": 0},
    {"id": 9, "name": "cone", "isthing": 1},
]
SIZE = (12, 16)


def logits_for(queries: list[tuple[int, np.ndarray]], *, sure: float = 8.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of queries given as (label, bool mask); label 3 is "no object"."""
    classes = torch.zeros(len(queries), 4)
    for row, (label, _) in enumerate(queries):
        classes[row, label] = sure
    return classes, torch.from_numpy(np.stack([np.where(mask, 6.0, -6.0) for _, mask in queries])).float()


def segmented(classes, masks, *, size=SIZE, threshold=0.5, overlap=0.8):
    return panoptic_from_queries(classes, masks, size=size, categories=CATEGORIES, threshold=threshold, overlap=overlap)


def part(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[rows, columns] = True
    return mask


LEFT, RIGHT = part(slice(None), slice(0, 8)), part(slice(None), slice(8, None))


def by_hand(classes: np.ndarray, masks: np.ndarray, *, threshold: float, overlap: float) -> np.ndarray:
    """Category id of each pixel by Mask2Former's `panoptic_inference`, one query after the other."""
    scores, labels = classes.max(-1), classes.argmax(-1)
    kept = [q for q in range(len(classes)) if labels[q] != len(CATEGORIES) and scores[q] > threshold]
    result = np.zeros(masks.shape[1:], int)
    if not kept:
        return result
    weighted = np.stack([scores[q] * masks[q] for q in kept])
    owner = weighted.argmax(0)
    for place, query in enumerate(kept):
        area, original = (owner == place).sum(), (masks[query] >= 0.5).sum()
        pixels = (owner == place) & (masks[query] >= 0.5)
        if area and original and pixels.any() and area / original >= overlap:
            result[pixels] = CATEGORIES[labels[query]]["id"]
    return result


@pytest.mark.parametrize("seed", range(8))
def test_pixels_get_the_categories_of_the_authors_rule(seed):
    draw = torch.Generator().manual_seed(seed)
    classes = 3 * torch.randn(7, 4, generator=draw)
    coarse = 4 * torch.randn(7, 3, 4, generator=draw)
    masks = F.interpolate(coarse[None], size=SIZE, mode="bilinear")[0]
    settings = {"threshold": 0.5, "overlap": 0.5 + 0.05 * seed}
    output = segmented(classes, masks, **settings)
    categories = {segment["id"]: segment["category_id"] for segment in output.segments[0]} | {0: 0}
    found = np.vectorize(categories.get)(output.ids[0])
    expected = by_hand(classes.softmax(-1).numpy(), masks.sigmoid().numpy(), **settings)
    assert np.array_equal(found, expected)
    for segment in output.segments[0]:
        assert segment["area"] == (output.ids[0] == segment["id"]).sum() > 0


def test_equal_stuff_is_one_segment_and_equal_things_are_two():
    output = segmented(*logits_for([(1, LEFT), (1, RIGHT)]))
    assert [s["category_id"] for s in output.segments[0]] == [3] and (output.ids[0] == 1).all()
    assert output.segments[0][0]["area"] == LEFT.size
    assert np.array_equal(output.instance_ids[0], np.where(LEFT, 1, 2))
    output = segmented(*logits_for([(0, LEFT), (0, RIGHT)]))
    assert [s["category_id"] for s in output.segments[0]] == [7, 7]
    assert np.array_equal(output.ids[0], np.where(LEFT, 1, 2))


def test_no_object_and_unsure_queries_are_dropped():
    everything = np.ones(SIZE, bool)
    assert not segmented(*logits_for([(3, everything)])).segments[0]
    unsure = logits_for([(0, everything)], sure=0.5)
    output = segmented(*unsure)
    assert not output.segments[0] and not output.ids[0].any() and not output.instance_ids[0].any()
    assert len(segmented(*unsure, threshold=0.3).segments[0]) == 1


def test_pixels_that_no_mask_covers_are_void():
    output = segmented(*logits_for([(0, part(slice(0, 4), slice(0, 4)))]))
    assert (output.ids[0] > 0).sum() == 16


def test_a_query_that_keeps_too_little_of_its_mask_is_dropped():
    """The second query's class is less sure, so the first takes the half that both cover."""
    classes, masks = logits_for([(0, LEFT), (2, np.ones(SIZE, bool))])
    classes[1, 2] = 3.0
    assert [s["category_id"] for s in segmented(classes, masks, overlap=0.8).segments[0]] == [7]
    assert [s["category_id"] for s in segmented(classes, masks, overlap=0.4).segments[0]] == [7, 9]


def test_the_semantic_map_weighs_all_queries():
    output = segmented(*logits_for([(0, LEFT), (1, RIGHT), (3, np.ones(SIZE, bool))]))
    assert np.array_equal(output.semantic[0], np.where(LEFT, 1, 2))


def test_results_have_the_size_that_was_asked_for():
    output = segmented(*logits_for([(0, LEFT), (1, RIGHT)]), size=(30, 50))
    assert output.ids[0].shape == output.semantic[0].shape == output.instance_ids[0].shape == (30, 50)
    assert (output.ids[0] == 1).mean() == pytest.approx(0.5, abs=0.05)


def test_images_keep_their_own_sizes_whatever_the_batch():
    model = tiny_mask2former()
    draw = np.random.default_rng(0)
    images = [draw.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((32, 32), (40, 24), (17, 50))]
    together, alone = segment_images(model, images), segment_images(model, images, batch_size=1)
    assert [ids.shape for ids in together.ids] == [(32, 32), (40, 24), (17, 50)]
    for name in ("ids", "semantic", "instance_ids"):
        for one, other in zip(getattr(together, name), getattr(alone, name), strict=True):
            assert (one == other).mean() > 0.999
    assert together.categories == model.config.categories
