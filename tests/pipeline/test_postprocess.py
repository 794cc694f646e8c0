"""Post-processing against the plain procedure (whole resized arrays, one segment after another), and its rules."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.pipeline import resized_argmax as resized_argmax_module
from ldmseg_lib.pipeline.postprocess import instances_from_logits, postprocess_panoptic, semantic_from_logits
from ldmseg_lib.pipeline.resized_argmax import resized_argmax


def resized(logits, size):
    return F.interpolate(logits[None].float(), size, mode="bilinear", align_corners=False)[0]


def plain_panoptic(mask_logits, semantic_logits, size, *, threshold, min_area):
    """The supplement's procedure, with its slips mended: NumPy, whole arrays, a loop over segments."""
    masks, classes = resized(mask_logits, size), resized(semantic_logits, size)
    ids, semantic = masks.argmax(0).numpy(), classes.argmax(0).numpy()
    ids[masks.softmax(0).amax(0).numpy() < threshold] = 0
    categories = {}
    for segment_id in np.unique(ids):
        inside = ids == segment_id
        votes = np.bincount(semantic[inside], minlength=2)[1:]
        if segment_id == 0 or inside.sum() < min_area or votes.max() == 0:
            ids[inside] = 0
        else:
            categories[int(segment_id)] = int(votes.argmax()) + 1
    return ids, categories


def scene(channels, rows, columns, *, regions=12, noise=1.0, seed=0):
    """Logits as a trained decoder makes them: one sure channel a region, softened at borders."""
    generator = torch.Generator().manual_seed(seed)
    region = F.interpolate(torch.randn(1, regions, 5, 5, generator=generator), (rows, columns), mode="bicubic")[0]
    channel = torch.randint(1, channels, (regions,), generator=generator)[region.argmax(0)]
    sure = torch.zeros(channels, rows, columns).scatter_(0, channel[None], 18.0)
    return F.avg_pool2d(sure[None], 3, 1, 1)[0] + noise * torch.randn(channels, rows, columns, generator=generator)


def noise(channels, rows, columns, seed=0):
    return 5 * torch.randn(channels, rows, columns, generator=torch.Generator().manual_seed(seed))


def one_hot(ids, channels, gain=20.0):
    """Logits whose arg max is the map `ids`, sure everywhere."""
    return gain * F.one_hot(torch.as_tensor(ids), channels).permute(2, 0, 1).float()


SIZES = {"twice": (96, 128), "same": (48, 64), "odd": (61, 97), "smaller": (30, 50), "one row": (1, 200)}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("make", [scene, noise])
def test_equals_the_plain_procedure(make, size):
    masks, classes = make(40, 48, 64, seed=1), make(30, 48, 64, seed=2)
    panoptic, categories = postprocess_panoptic(masks, classes, size=size, threshold=0.5, min_area=20)
    expected, expected_categories = plain_panoptic(masks, classes, size, threshold=0.5, min_area=20)
    # rounding in the interpolation may decide a tie
    assert (panoptic.numpy() != expected).mean() < 1e-3
    assert categories == expected_categories
    assert set(panoptic.unique().tolist()) <= {0, *categories}


@pytest.mark.parametrize("make", [scene, noise])
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 0.95])
@pytest.mark.parametrize("chunk", [1 << 10, 1 << 19])
def test_threshold_is_on_the_largest_softmax_of_each_pixel(monkeypatch, make, threshold, chunk):
    monkeypatch.setattr(resized_argmax_module, "_CHUNK_VALUES", chunk)
    logits = make(20, 40, 40)
    _, confident = resized_argmax(logits, (90, 100), threshold=threshold)
    largest = resized(logits, (90, 100)).softmax(0).amax(0)
    if threshold == 0:
        assert confident is None
        return
    undecided = (largest - threshold).abs() < 1e-5
    assert ((confident == (largest >= threshold)) | undecided).all()
    assert confident.any()
    assert threshold < 0.9 or not confident.all()


@given(
    st.integers(1, 7),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.integers(0, 2**31),
    st.sampled_from([0.3, 3.0, 30.0]),
)
@settings(max_examples=150, deadline=None)
def test_the_winner_has_the_largest_resized_logit(channels, low_size, size, seed, gain):
    logits = gain * torch.randn(channels, *low_size, generator=torch.Generator().manual_seed(seed))
    winner, confident = resized_argmax(logits, size, threshold=0.5)
    up = resized(logits, size)
    assert torch.allclose(up.gather(0, winner[None])[0], up.amax(0), atol=1e-5 * gain)
    largest = up.softmax(0).amax(0)
    assert ((confident == (largest >= 0.5)) | ((largest - 0.5).abs() < 1e-4)).all()


def test_more_channels_than_a_byte_counts():
    logits = noise(300, 16, 16)
    for size in ((16, 16), (40, 40)):
        assert torch.equal(resized_argmax(logits, size)[0], resized(logits, size).argmax(0))


def test_equal_logits_give_the_first_channel():
    for channels, size in itertools.product((5, 256, 300), ((4, 4), (9, 7))):
        assert (resized_argmax(torch.zeros(channels, 4, 4), size)[0] == 0).all()


def test_inputs_stay_as_they_were_whatever_their_layout_and_type():
    logits = noise(12, 20, 30)
    expected = instances_from_logits(logits, size=(41, 60), min_area=4)
    strided = logits.permute(1, 2, 0).contiguous().permute(2, 0, 1).requires_grad_()
    before = strided.detach().clone()
    assert torch.equal(instances_from_logits(strided, size=(41, 60), min_area=4), expected)
    assert torch.equal(strided, before)
    same_size = instances_from_logits(logits, min_area=0)
    assert torch.equal(logits, before) and same_size.shape == (20, 30)
    rough = logits.bfloat16()
    assert torch.equal(
        instances_from_logits(rough, size=(41, 60), min_area=4),
        instances_from_logits(rough.float(), size=(41, 60), min_area=4),
    )


def test_nan_becomes_void_and_nothing_else():
    logits = one_hot(torch.full((8, 8), 3), 6)
    logits[:, 2, 2] = torch.nan
    ids = instances_from_logits(logits, min_area=0)
    assert ids[2, 2] == 0 and (ids == 3).sum() == 63


def test_logits_of_any_size_do_not_overflow():
    logits = one_hot(torch.arange(16).view(4, 4) % 5, 5, gain=1e4)
    ids = instances_from_logits(logits, size=(4, 4), min_area=0)
    assert torch.equal(ids, torch.arange(16).view(4, 4) % 5)


IDS = torch.tensor([[1, 1, 1, 1, 2, 2], [1, 1, 1, 1, 2, 2], [3, 3, 3, 0, 0, 0]])
CLASSES = torch.tensor([[4, 4, 4, 5, 6, 6], [4, 4, 5, 5, 6, 6], [6, 6, 0, 4, 4, 4]])


def panoptic(ids=IDS, classes=CLASSES, **rules):
    return postprocess_panoptic(one_hot(ids, 8), one_hot(classes, 7), **{"min_area": 0, **rules})


def test_the_majority_of_a_segments_pixels_names_its_class_and_void_has_none():
    segments, categories = panoptic()
    assert torch.equal(segments, IDS)
    assert categories == {1: 4, 2: 6, 3: 6}
    assert all(type(value) is int for pair in categories.items() for value in pair)


def test_equal_stuff_is_merged_and_equal_things_are_not():
    segments, categories = panoptic(stuff_ids=[6])
    assert categories == {1: 4, 2: 6}
    assert torch.equal(segments, torch.where(IDS == 3, 2, IDS))


def test_small_segments_become_void_before_stuff_is_merged():
    segments, categories = panoptic(stuff_ids=[6], min_area=4)
    assert categories == {1: 4, 2: 6}
    assert (segments[2] == 0).all()


@pytest.mark.parametrize("min_area", [8, 9])
def test_min_area_is_the_smallest_area_that_stays(min_area):
    assert (1 in panoptic(min_area=min_area)[1]) == (min_area == 8)


def test_the_area_is_counted_after_the_threshold_and_at_the_size_of_the_result():
    logits = one_hot(torch.full((4, 8), 2), 3)
    logits[:, :, 4:] *= 0.01
    assert (instances_from_logits(logits, min_area=16) == 2).sum() == 16
    assert (instances_from_logits(logits, min_area=17) == 0).all()
    assert (instances_from_logits(logits, size=(8, 16), min_area=56) == 2).sum() >= 56


def test_void_does_not_vote_unless_asked():
    ids, classes = torch.ones(1, 5, dtype=torch.int64), torch.tensor([[0, 0, 0, 6, 5]])
    assert panoptic(ids, classes)[1] == {1: 5}
    segments, categories = panoptic(ids, classes, ignore_void_votes=False)
    assert categories == {} and (segments == 0).all()


def test_a_segment_on_nothing_but_void_is_void():
    segments, categories = panoptic(classes=torch.zeros_like(CLASSES))
    assert categories == {} and (segments == 0).all()


def test_another_void_id():
    segments, categories = panoptic(torch.where(IDS == 0, 7, IDS), void_id=7, min_area=4)
    assert categories == {1: 4, 2: 6}
    assert set(segments.unique().tolist()) == {1, 2, 7}


def test_instances_are_class_agnostic_and_taken_before_the_vote():
    assert torch.equal(instances_from_logits(one_hot(IDS, 8), min_area=0), IDS)


def test_a_class_map_serves_as_well_as_class_logits():
    by_logits, by_map = (
        panoptic(stuff_ids=[6]),
        postprocess_panoptic(one_hot(IDS, 8), CLASSES, min_area=0, stuff_ids=[6]),
    )
    assert torch.equal(by_logits[0], by_map[0]) and by_logits[1] == by_map[1]
    assert torch.equal(semantic_from_logits(one_hot(CLASSES, 7)), CLASSES)


def test_overlap_drops_segments_whose_sigmoid_reaches_far_beyond_them():
    logits = one_hot(torch.tensor([[1, 1, 2, 2, 2, 2, 2, 2]]), 3) - 10
    # channel 1 is positive everywhere, yet the largest only on two of eight pixels
    logits[1] = logits[1].clamp(min=1)
    assert (instances_from_logits(logits, min_area=0) == 1).sum() == 2
    assert (instances_from_logits(logits, min_area=0, overlap=0.25) == 1).sum() == 2
    kept = instances_from_logits(logits, min_area=0, overlap=0.5)
    assert (kept == 1).sum() == 0 and (kept == 2).sum() == 6


def test_everything_void_is_an_empty_dict():
    segments, categories = panoptic(min_area=100)
    assert (segments == 0).all() and categories == {}


@pytest.mark.parametrize(
    ("masks", "classes", "size", "words"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 3, 3), None, "mask_logits"),
        (torch.zeros(2, 3, 3, dtype=torch.int64), torch.zeros(2, 3, 3), None, "mask_logits.*int64"),
        (torch.zeros(0, 3, 3), torch.zeros(2, 3, 3), None, "mask_logits"),
        (torch.zeros(2, 3, 3), torch.zeros(1, 2, 3, 3), None, "semantic_logits"),
        (torch.zeros(2, 3, 3), torch.zeros(4, 4, dtype=torch.int64), None, r"\(4, 4\).*\(3, 3\)"),
        (torch.zeros(2, 3, 3), torch.zeros(2, 3, 3), (0, 5), r"size \(0, 5\)"),
    ],
)
def test_faulty_inputs_are_named(masks, classes, size, words):
    with pytest.raises(InputError, match=words):
        postprocess_panoptic(masks, classes, size=size)


@pytest.mark.parametrize("make", [scene, noise])
@pytest.mark.parametrize("size", [(24, 40), (50, 77)])
def test_what_runs_on_a_gpu_agrees_where_there_is_none(make, size):
    logits = make(20, 24, 40)
    winner, confident = resized_argmax_module._on_accelerator(logits, size, 0.5)
    expected, expected_confident = resized_argmax(logits, size, threshold=0.5)
    assert (winner != expected).float().mean() < 1e-3
    assert (confident != expected_confident).float().mean() < 1e-3
    assert resized_argmax_module._on_accelerator(logits, size, 0)[1] is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("make", [scene, noise])
def test_a_gpu_gives_the_same_and_waits_only_for_the_votes(make):
    masks, classes = make(128, 64, 64, seed=1).cuda(), make(134, 64, 64, seed=2).cuda()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        ids = instances_from_logits(masks, size=(128, 128), min_area=20)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = instances_from_logits(masks.cpu(), size=(128, 128), min_area=20)
    assert (ids.cpu() != expected).float().mean() < 1e-3
    on_gpu = postprocess_panoptic(masks, classes, size=(128, 128), min_area=20)
    on_cpu = postprocess_panoptic(masks.cpu(), classes.cpu(), size=(128, 128), min_area=20)
    assert on_gpu[1] == on_cpu[1] and on_gpu[0].device.type == "cuda"
