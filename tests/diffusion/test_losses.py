"""Losses at sampled points agree with losses over all pixels, and stay finite where there is nothing to learn."""

import pytest
import torch
from torch.nn import functional as F

from ldmseg_lib.core.randomness import torch_generator
from ldmseg_lib.diffusion import losses
from ldmseg_lib.diffusion.losses import denoising_loss, point_cross_entropy, point_mask_losses, sample_at, segment_index

SIDE, IDS = 8, 6


def generators(count: int, *key: int | str) -> list[torch.Generator]:
    return [torch_generator("losses", *key, i) for i in range(count)]


def random_case(batch: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and id maps of the same size; the ids 1..IDS-1, and void, each somewhere."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, IDS, SIDE, SIDE, generator=generator) * 3
    target = torch.randint(IDS, (batch, SIDE, SIDE), generator=generator)
    return logits, target


@pytest.fixture
def every_pixel(monkeypatch):
    """The points are the centres of all pixels, once each."""
    places = (torch.arange(SIDE) + 0.5) / SIDE
    grid = torch.stack(torch.meshgrid(places, places, indexing="xy"), dim=-1).reshape(1, -1, 2)
    monkeypatch.setattr(losses, "important_points", lambda candidates, _, __: grid.expand(len(candidates), -1, -1))


def test_cross_entropy_at_every_pixel_is_the_dense_one(every_pixel):
    logits, target = random_case()
    found = point_cross_entropy(logits, target, num_points=16, generators=generators(2))
    dense = [F.cross_entropy(logits[i : i + 1], target[i : i + 1], ignore_index=0) for i in range(2)]
    assert torch.allclose(found, torch.stack(dense), atol=1e-5)


def test_mask_losses_at_every_pixel_are_the_dense_ones(every_pixel):
    """Each segment's own channel, no other: the sums over segments of mean BCE and of 1 - Dice (method 2.4)."""
    logits, target = random_case()
    bce, dice = point_mask_losses(logits, target, num_points=16, generators=generators(2))
    dense_bce = dense_dice = torch.zeros(())
    for image_logits, ids in zip(logits, target):
        for segment in ids.unique()[1:].tolist():
            mask, values = (ids == segment).float(), image_logits[segment]
            dense_bce = dense_bce + F.binary_cross_entropy_with_logits(values, mask)
            p = values.sigmoid()
            dense_dice = dense_dice + 1 - (2 * (p * mask).sum() + 1) / (p.sum() + mask.sum() + 1)
    assert torch.allclose(bce, dense_bce, atol=1e-4)
    assert torch.allclose(dice, dense_dice, atol=1e-4)


def test_void_pixels_teach_the_cross_entropy_nothing(every_pixel):
    logits, target = random_case()
    target[:, :4] = 0
    logits.requires_grad_()
    point_cross_entropy(logits, target, num_points=16, generators=generators(2)).sum().backward()
    gradient = logits.grad.abs().amax(1)
    assert (gradient[target == 0] < 1e-6).all() and (gradient[target != 0] > 0).any()


@pytest.mark.parametrize("num_points", [1, 4, 64])
def test_nothing_to_learn_gives_zero_and_zero_gradients(num_points):
    logits, _ = random_case()
    target = torch.zeros(2, 2 * SIDE, 2 * SIDE, dtype=torch.long)
    logits.requires_grad_()
    cross_entropy = point_cross_entropy(logits, target, num_points=num_points, generators=generators(2))
    bce, dice = point_mask_losses(logits, target, num_points=num_points, generators=generators(2))
    total = cross_entropy.sum() + bce + dice
    total.backward()
    assert total.item() == 0 and (logits.grad == 0).all()


def test_one_void_image_does_not_disturb_the_other():
    logits, target = random_case()
    both = point_cross_entropy(logits, target, num_points=32, generators=generators(2))
    target[1] = 0
    one = point_cross_entropy(logits, target, num_points=32, generators=generators(2))
    assert one[0] == both[0] and one[1] == 0


def test_the_loss_of_an_image_does_not_depend_on_its_batch():
    logits, target = random_case(batch=3)
    settings = {"num_points": 32}
    together = point_cross_entropy(logits, target, generators=generators(3), **settings)
    alone = [
        point_cross_entropy(logits[i : i + 1], target[i : i + 1], generators=[g], **settings)
        for i, g in enumerate(generators(3))
    ]
    assert torch.allclose(together, torch.cat(alone), atol=1e-6)
    together = torch.stack(point_mask_losses(logits, target, generators=generators(3), **settings))
    alone = [
        torch.stack(point_mask_losses(logits[i : i + 1], target[i : i + 1], generators=[g], **settings))
        for i, g in enumerate(generators(3))
    ]
    assert torch.allclose(together, sum(alone), atol=1e-4)


def test_sampled_losses_estimate_the_dense_ones_upwards():
    """The most uncertain points are preferred, so that on a good prediction the sampled loss is the larger one."""
    target = torch.zeros(1, 32, 32, dtype=torch.long)
    target[:, :, :15], target[:, :, 15:] = 1, 2
    logits = torch.stack([torch.full((32, 32), -9.0), (15.3 - torch.arange(32.0)).expand(32, 32)])
    logits = torch.cat([logits, -logits[1:]])[None]
    dense = F.cross_entropy(logits, target)
    sampled = point_cross_entropy(logits, target, num_points=256, generators=generators(1))
    assert sampled.item() > 1.5 * dense.item()


def test_three_quarters_of_the_points_are_the_most_uncertain():
    candidates = torch.rand(1, 3 * 40, 2, generator=torch.Generator().manual_seed(0))
    uncertainty = -(candidates[..., 0] - 0.5).abs()
    fresh = torch.full((1, 10, 2), 2.0)
    points = losses.important_points(candidates, uncertainty, fresh)
    assert points.shape == (1, 40, 2) and (points[:, 30:] == 2).all()
    kept = (points[0, :30, 0] - 0.5).abs().max()
    assert (candidates[0, :, 0] - 0.5).abs().sort().values[29] == kept


def test_sampling_reads_pixels_at_their_centres():
    """(x, y), pixel (row, column) at ((column + 1/2) / width, (row + 1/2) / height), zero outside."""
    maps = torch.arange(12.0).view(1, 1, 3, 4)
    points = torch.tensor([[[2.5 / 4, 1.5 / 3], [0.5 / 4, 2.5 / 3], [1.0 / 4, 0.5 / 3], [5.0, 5.0]]])
    assert torch.allclose(sample_at(maps, points)[0, 0], torch.tensor([6.0, 8.0, 0.5, 0.0]), atol=1e-5)
    assert sample_at(maps, points[:, :2], mode="nearest")[0, 0].tolist() == [6.0, 8.0]


def test_logits_of_a_lower_resolution_are_compared_at_the_same_places():
    """A coarse, right prediction has a small loss; the same one mirrored has a large one."""
    target = torch.ones(1, 32, 32, dtype=torch.long)
    target[:, :, 16:] = 2
    logits = torch.full((1, 3, 8, 8), -9.0)
    logits[:, 1, :, :4] = logits[:, 2, :, 4:] = 9.0
    settings = {"num_points": 200, "generators": generators(1)}
    right = point_cross_entropy(logits, target, **settings).item()
    wrong = point_cross_entropy(logits.flip(-1), target, **settings).item()
    assert right < 1 and wrong > 5


def test_segments_are_listed_by_image_and_id():
    target = torch.tensor([[[0, 3], [3, 1]], [[0, 0], [0, 0]], [[2, 2], [2, 2]]])
    images, ids, counts = segment_index(target)
    assert (images.tolist(), ids.tolist(), counts) == ([0, 0, 2], [1, 3, 2], [2, 0, 1])


def test_the_denoising_loss_is_a_mean_over_all_elements():
    """Method 3.3: void cells count as zeros in the mean, so an image with much void weighs less."""
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 2, 4, 3, 3, generator=generator)
    known = torch.ones(2, 1, 3, 3)
    known[1, :, 0] = 0
    weight = torch.tensor([1.0, 0.5])
    found = denoising_loss(prediction, target, weight, known)
    squares = (prediction - target).square()
    assert torch.allclose(found[0], squares[0].mean())
    assert torch.allclose(found[1], 0.5 * squares[1, :, 1:].sum() / squares[1].numel())
    assert (denoising_loss(prediction, target, weight, torch.zeros_like(known)) == 0).all()
