"""Learning a set: queries are matched to segments one to one, and each pair is compared (Mask2Former, DETR).

The costs of the matching are transformers' own functions. The losses of the pairs are those of `losses`, which draw
points per image from a generator: results then depend neither on the batch nor on the number of processes.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F
from transformers.models.mask2former.modeling_mask2former import (
    pair_wise_dice_loss,
    pair_wise_sigmoid_cross_entropy_loss,
)

from .losses import losses_at_points, sample_at, uniform_points

ClassLogits = Float[Tensor, "stages batch queries labels"]
MaskLogits = Float[Tensor, "stages batch queries rows columns"]
Masks = Sequence[Float[Tensor, "segments height width"]]
"""The true masks of each image, 0 or 1."""
Labels = Sequence[Int[Tensor, "segments"]]
"""Their labels, from 0."""
Pairs = list[list[tuple[Tensor, Tensor]]]
"""For each image, and in it for each stage: the matched queries and the segments that they got, int64."""


@torch.no_grad()
def match_queries(
    class_logits: ClassLogits,
    mask_logits: MaskLogits,
    masks: Masks,
    labels: Labels,
    *,
    class_weight: float,
    mask_weight: float,
    dice_weight: float,
    num_points: int,
    generators: Sequence[torch.Generator],
) -> Pairs:
    """The assignment of least cost of queries to segments, for each image and stage.

    The cost of a pair is the negated probability of its label, and cross-entropy and Dice loss of its mask at points
    that are uniform over the image. What is not finite costs as much as can be.

    Args:
        generators: one an image, of the points.
    """
    stages, batch, queries = mask_logits.shape[:3]
    points = uniform_points(generators, [1] * batch, num_points, mask_logits)
    sampled = sample_at(mask_logits.flatten(0, 1).float(), points.repeat(stages, 1, 1)).unflatten(0, (stages, batch))
    probabilities = class_logits.float().softmax(-1)
    costs = []
    for image, (true, wanted) in enumerate(zip(masks, labels, strict=True)):
        at_points = sample_at(true[None].float(), points[image : image + 1])[0]
        predicted = sampled[:, image].flatten(0, 1)
        cost = mask_weight * pair_wise_sigmoid_cross_entropy_loss(predicted, at_points)
        cost = cost + dice_weight * pair_wise_dice_loss(predicted, at_points)
        cost = cost - class_weight * probabilities[:, image, :, wanted].flatten(0, 1)
        most = torch.finfo(cost.dtype).max
        costs.append(torch.nan_to_num(cost, nan=most, posinf=most, neginf=most).unflatten(0, (stages, queries)))
    # one copy to the host for all images and stages
    flat = torch.cat([cost.flatten() for cost in costs]).cpu().split([cost.numel() for cost in costs])
    tables = [values.view(cost.shape).numpy() for values, cost in zip(flat, costs, strict=True)]
    return [[_assignment(stage) for stage in table] for table in tables]


def _assignment(cost: Float[np.ndarray, "queries segments"]) -> tuple[Tensor, Tensor]:
    queries, segments = linear_sum_assignment(cost)
    return torch.from_numpy(queries), torch.from_numpy(segments)


def set_losses(
    class_logits: ClassLogits,
    mask_logits: MaskLogits,
    masks: Masks,
    labels: Labels,
    pairs: Pairs,
    *,
    no_object_weight: float,
    num_points: int,
    generators: Sequence[torch.Generator],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """Class cross-entropy, mask cross-entropy and Dice loss, sums over all stages, to be divided by the caller.

    Unmatched queries are to say "no object", which counts `no_object_weight`. The class loss is to be divided by
    `class_normaliser`, the others by the number of segments. They are finite, and 0 for the masks, without segments.

    Args:
        pairs: from `match_queries`.
        generators: one an image, of the points.
    """
    stages, batch, queries, num_labels = class_logits.shape
    device = class_logits.device
    target = torch.full((stages, batch, queries), num_labels - 1)
    where: list[tuple[int, int, int]] = []  # stage, image, query of each pair; image by image, as the points are drawn
    chosen = []
    for image, of_image in enumerate(pairs):
        wanted = labels[image].cpu()
        for stage, (query, segment) in enumerate(of_image):
            target[stage, image, query] = wanted[segment]
            where += [(stage, image, q) for q in query.tolist()]
        chosen.append(masks[image][torch.cat([segment for _, segment in of_image]).to(device)])
    weight = torch.ones(num_labels, device=device)
    weight[-1] = no_object_weight
    classes = F.cross_entropy(class_logits.float().flatten(0, 2), target.flatten().to(device), weight, reduction="sum")
    if not where:
        return classes, mask_logits.sum() * 0, mask_logits.sum() * 0
    stage, image, query = torch.tensor(where, device=device).T
    bce, dice = losses_at_points(
        mask_logits[stage, image, query][:, None].float(),
        torch.cat(chosen)[:, None].float(),
        [len(part) for part in chosen],
        num_points=num_points,
        generators=generators,
    )
    return classes, bce.sum(), dice.sum()


def class_normaliser(counts: Sequence[int], *, queries: int, no_object_weight: float) -> float:
    """Sum of the class weights of all queries of one stage, for images with `counts` segments."""
    matched = [min(count, queries) for count in counts]
    return sum(count + no_object_weight * (queries - count) for count in matched)
