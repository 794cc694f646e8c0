"""Matching and losses of queries: those of transformers' Mask2Former on the same tensors and points."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F
from transformers import Mask2FormerConfig
from transformers.models.mask2former import modeling_mask2former as theirs

from ldmseg_lib.core.randomness import torch_generator
from ldmseg_lib.diffusion import losses, set_prediction
from ldmseg_lib.diffusion.set_prediction import class_normaliser, match_queries, set_losses

LABELS, QUERIES, STAGES, POINTS = 4, 6, 3, 40
WEIGHTS = {"class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 5.0}


def generators(batch: int) -> list[torch.Generator]:
    return [torch_generator("points", image) for image in range(batch)]


def example(counts: tuple[int, ...], *, seed: int = 0, queries: int = QUERIES):
    """Random logits of a batch, and for each image `counts[i]` rectangles with labels."""
    draw = torch_generator("set prediction", seed)
    class_logits = torch.randn(STAGES, len(counts), queries, LABELS + 1, generator=draw)
    mask_logits = 3 * torch.randn(STAGES, len(counts), queries, 8, 8, generator=draw)
    masks, labels = [], []
    for count in counts:
        true = torch.zeros(count, 16, 16, dtype=torch.bool)
        for mask in true:
            top, left = torch.randint(0, 10, (2,), generator=draw).tolist()
            mask[top : top + 6, left : left + 5] = True
        masks.append(true)
        labels.append(torch.randint(0, LABELS, (count,), generator=draw))
    return class_logits.requires_grad_(), mask_logits.requires_grad_(), masks, labels


def matched(class_logits, mask_logits, masks, labels):
    settings = WEIGHTS | {"num_points": POINTS, "generators": generators(len(masks))}
    return match_queries(class_logits, mask_logits, masks, labels, **settings)


def judged(class_logits, mask_logits, masks, labels, pairs, *, points: int = POINTS):
    settings = {"no_object_weight": 0.1, "num_points": points, "generators": generators(len(masks))}
    return set_losses(class_logits, mask_logits, masks, labels, pairs, **settings)


@pytest.fixture
def same_points(monkeypatch):
    """Every point that either implementation draws becomes one of a fixed grid."""
    steps = (torch.arange(8) + 0.5) / 8
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).view(1, -1, 2)
    for module in (set_prediction, losses):
        monkeypatch.setattr(module, "uniform_points", lambda _, counts, *__: grid.expand(sum(counts), -1, -1))
    monkeypatch.setattr(losses, "important_points", lambda candidates, *_: grid.expand(len(candidates), -1, -1))
    monkeypatch.setattr(theirs.torch, "rand", lambda *_, **__: grid)
    monkeypatch.setattr(
        theirs.Mask2FormerLoss,
        "sample_points_using_uncertainty",
        lambda _, logits, *__: grid.expand(len(logits), -1, -1),
    )


def their_loss() -> theirs.Mask2FormerLoss:
    config = Mask2FormerConfig(num_labels=LABELS, num_queries=QUERIES, train_num_points=64)
    return theirs.Mask2FormerLoss(config=config, weight_dict={})


def test_losses_and_their_gradients_are_those_of_transformers(same_points):
    class_logits, mask_logits, masks, labels = example((3, 1, 6))
    found = judged(class_logits, mask_logits, masks, labels, matched(class_logits, mask_logits, masks, labels))
    counts = [len(wanted) for wanted in labels]
    found = torch.stack(
        [
            found[0] / class_normaliser(counts, queries=QUERIES, no_object_weight=0.1),
            *(f / sum(counts) for f in found[1:]),
        ]
    )
    criterion, true = their_loss(), [mask.float() for mask in masks]
    expected = torch.zeros(3)
    for stage in range(STAGES):
        terms = criterion(mask_logits[stage], class_logits[stage], true, labels)
        names = ("loss_cross_entropy", "loss_mask", "loss_dice")
        expected = expected + torch.stack([terms[name] for name in names])
    torch.testing.assert_close(found, expected)
    ours = torch.autograd.grad(found.sum(), (class_logits, mask_logits))
    for mine, other in zip(ours, torch.autograd.grad(expected.sum(), (class_logits, mask_logits)), strict=True):
        torch.testing.assert_close(mine, other)


def test_pairs_are_those_of_transformers_matcher(same_points):
    class_logits, mask_logits, masks, labels = example((3, 0, 6))
    pairs = matched(class_logits, mask_logits, masks, labels)
    matcher = theirs.Mask2FormerHungarianMatcher(cost_class=2.0, cost_mask=5.0, cost_dice=5.0, num_points=64)
    for stage in range(STAGES):
        expected = matcher(mask_logits[stage], class_logits[stage], [mask.float() for mask in masks], labels)
        for image, pair in enumerate(expected):
            for mine, other in zip(pairs[image][stage], pair, strict=True):
                assert torch.equal(mine, other)


def test_the_assignment_is_scipys_and_the_cheapest_of_all(same_points):
    """The cost written out: cross-entropy and Dice of each mask at the points, and the label's probability."""
    class_logits, mask_logits, masks, labels = example((3,), queries=5)
    (pairs,) = matched(class_logits, mask_logits, masks, labels)
    grid = (torch.arange(8) + 0.5) / 8
    points = 2 * torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1)[None] - 1
    cost = np.zeros((5, 3))
    for query, segment in itertools.product(range(5), range(3)):
        x = F.grid_sample(mask_logits[-1, :, query, None].detach(), points, align_corners=False)
        y = F.grid_sample(masks[0][segment].float()[None, None], points, align_corners=False)
        bce, p = F.binary_cross_entropy_with_logits(x, y).item(), x.sigmoid()
        dice = (1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)).item()
        probability = class_logits[-1, 0, query].softmax(-1)[labels[0][segment]].item()
        cost[query, segment] = 5 * bce + 5 * dice - 2 * probability
    queries, segments = linear_sum_assignment(cost)
    assert torch.equal(pairs[-1][0], torch.from_numpy(queries))
    assert torch.equal(pairs[-1][1], torch.from_numpy(segments))
    cheapest = min(sum(cost[q, s] for s, q in enumerate(order)) for order in itertools.permutations(range(5), 3))
    assert cost[queries, segments].sum() == pytest.approx(cheapest)


@pytest.mark.parametrize("counts", [(0,), (0, 0), (0, 2)])
def test_images_without_segments_give_finite_losses_and_gradients(counts):
    class_logits, mask_logits, masks, labels = example(counts)
    terms = judged(class_logits, mask_logits, masks, labels, matched(class_logits, mask_logits, masks, labels))
    assert all(term.isfinite() for term in terms)
    assert terms[0] > 0 and (terms[1] > 0) == (sum(counts) > 0)
    sum(terms).backward()
    assert class_logits.grad.isfinite().all() and mask_logits.grad.isfinite().all()


def test_more_segments_than_queries_match_every_query_once():
    class_logits, mask_logits, masks, labels = example((9,))
    (pairs,) = matched(class_logits, mask_logits, masks, labels)
    for queries, segments in pairs:
        assert queries.tolist() == list(range(QUERIES)) and len(set(segments.tolist())) == QUERIES
    terms = judged(class_logits, mask_logits, masks, labels, [pairs])
    assert all(term.isfinite() for term in terms)
    assert class_normaliser([9], queries=QUERIES, no_object_weight=0.1) == QUERIES


def test_logits_that_are_not_finite_are_matched_last():
    class_logits, mask_logits, masks, labels = example((3,))
    with torch.no_grad():
        mask_logits[:, :, :3] = torch.nan
    (pairs,) = matched(class_logits, mask_logits, masks, labels)
    assert all(queries.tolist() == [3, 4, 5] for queries, _ in pairs)


def test_a_batch_counts_as_its_images_alone():
    """Points come from each image's generator, so sums over images do not depend on who shares the batch."""
    class_logits, mask_logits, masks, labels = example((3, 0, 6, 2))
    pairs = matched(class_logits, mask_logits, masks, labels)
    together = torch.stack(judged(class_logits, mask_logits, masks, labels, pairs))
    alone = torch.zeros(3)
    for image in range(4):
        rows = slice(image, image + 1)
        parts = class_logits[:, rows], mask_logits[:, rows], masks[rows], labels[rows]
        own = WEIGHTS | {"num_points": POINTS, "generators": generators(4)[rows]}
        of_image = match_queries(*parts, **own)
        for mine, other in zip(of_image[0], pairs[image], strict=True):
            assert torch.equal(mine[0], other[0]) and torch.equal(mine[1], other[1])
        settings = {"no_object_weight": 0.1, "num_points": POINTS, "generators": generators(4)[rows]}
        alone += torch.stack(set_losses(*parts, of_image, **settings))
    torch.testing.assert_close(together, alone)


def test_right_pairs_of_right_queries_cost_next_to_nothing_and_wrong_ones_much():
    masks = [torch.zeros(2, 16, 16, dtype=torch.bool)]
    masks[0][0, :, :8], masks[0][1, :, 8:] = True, True
    labels = [torch.tensor([3, 1])]
    mask_logits = torch.full((1, 1, QUERIES, 16, 16), -30.0)
    mask_logits[0, 0, [4, 2]] = 60.0 * masks[0] - 30
    class_logits = torch.full((1, 1, QUERIES, LABELS + 1), -20.0)
    class_logits[0, 0, :, -1] = 20.0
    class_logits[0, 0, 4], class_logits[0, 0, 2] = -20.0, -20.0
    class_logits[0, 0, 4, 3] = class_logits[0, 0, 2, 1] = 20.0
    pairs = matched(class_logits, mask_logits, masks, labels)
    assert dict(zip(*(side.tolist() for side in pairs[0][0]))) == {4: 0, 2: 1}
    right = judged(class_logits, mask_logits, masks, labels, pairs)
    assert right[0] < 1e-6 and right[2] < 0.3
    ((queries, segments),) = pairs[0]
    wrong = judged(class_logits, mask_logits, masks, labels, [[(queries, segments.flip(0))]])
    assert wrong[0] > 20 and wrong[2] > 1.5 and wrong[1] > 10 * right[1]
