"""Losses of the mask autoencoder at sampled points (paper, section 3.1), and the weighted loss of the diffusion model.

Points are drawn as in PointRend: three times as many uniform candidates as points, of which the most uncertain become
three quarters of the points; the last quarter is fresh and uniform. Coordinates are (x, y) in [0, 1] over the image.
Logits are read bilinearly, so they may have a lower resolution than the targets. All randomness comes from one
generator per image.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

Points = Float[Tensor, "masks points 2"]
OVERSAMPLE, IMPORTANT = 3, 0.75


def sample_at(
    maps: Float[Tensor, "masks channels height width"], points: Points, *, mode: str = "bilinear"
) -> Float[Tensor, "masks channels points"]:
    """Values of `maps` at `points`, zero outside; mode "bilinear" or "nearest"."""
    return F.grid_sample(maps, points[:, None] * 2 - 1, mode=mode, padding_mode="zeros", align_corners=False)[:, :, 0]


def uniform_points(
    generators: Sequence[torch.Generator], counts: Sequence[int], num_points: int, like: Tensor
) -> Points:
    """`counts[i]` rows of uniform points from the i-th image's generator."""
    rows = [torch.rand(n, num_points, 2, generator=g) for g, n in zip(generators, counts, strict=True)]
    return torch.cat(rows).to(like.device)


def important_points(
    candidates: Float[Tensor, "masks candidates 2"],
    uncertainty: Float[Tensor, "masks candidates"],
    fresh: Float[Tensor, "masks fresh 2"],
) -> Points:
    """The most uncertain candidates, as many as leave room for `fresh` among a third of them, and `fresh`."""
    keep = uncertainty.topk(candidates.shape[1] // OVERSAMPLE - fresh.shape[1], dim=1).indices
    return torch.cat([candidates.gather(1, keep[..., None].expand(-1, -1, 2)), fresh], dim=1)


def point_cross_entropy(
    logits: Float[Tensor, "batch ids height width"],
    target: Int[Tensor, "batch rows columns"],
    *,
    num_points: int,
    generators: Sequence[torch.Generator],
    void_id: int = 0,
) -> Float[Tensor, "batch"]:
    """Softmax cross-entropy of each image, the mean over its sampled points that are not void; 0 if all are void.

    The most uncertain points are those where the two best logits are closest.
    """
    with torch.no_grad():
        ones = [1] * len(logits)
        candidates = uniform_points(generators, ones, OVERSAMPLE * num_points, logits)
        best = sample_at(logits, candidates).topk(2, dim=1).values
        fresh = uniform_points(generators, ones, num_points - int(IMPORTANT * num_points), logits)
        points = important_points(candidates, best[:, 1] - best[:, 0], fresh)
        labels = sample_at(target[:, None].float(), points, mode="nearest")[:, 0].round().long()
    values = F.cross_entropy(sample_at(logits, points).float(), labels, ignore_index=void_id, reduction="none")
    return values.sum(1) / (labels != void_id).sum(1).clamp(min=1)


def point_mask_losses(
    logits: Float[Tensor, "batch ids height width"],
    target: Int[Tensor, "batch rows columns"],
    *,
    num_points: int,
    generators: Sequence[torch.Generator],
    void_id: int = 0,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Binary cross-entropy and Dice loss of every segment's own logit channel, each summed over the segments.

    A segment's channel is its id: nothing is matched. The caller divides by the number of segments of the effective
    batch. Both are 0 when there is no segment.
    """
    images, ids, counts = segment_index(target, void_id)
    if not len(ids):
        return logits.sum() * 0, logits.sum() * 0
    channels = logits[images, ids][:, None]
    masks = (target[images] == ids[:, None, None])[:, None].float()
    bce, dice = losses_at_points(channels, masks, counts, num_points=num_points, generators=generators)
    return bce.sum(), dice.sum()


def losses_at_points(
    channels: Float[Tensor, "masks 1 height width"],
    masks: Float[Tensor, "masks 1 rows columns"],
    counts: Sequence[int],
    *,
    num_points: int,
    generators: Sequence[torch.Generator],
) -> tuple[Float[Tensor, "masks"], Float[Tensor, "masks"]]:
    """Binary cross-entropy, the mean over points, and Dice loss of each mask at its own sampled points.

    Args:
        channels: a logit channel for each mask.
        masks: what it should be, 0 or 1.
        counts: how many of the masks are each generator's.
        num_points: sampled points of a mask.
        generators: one for each entry of `counts`.
    """
    with torch.no_grad():
        candidates = uniform_points(generators, counts, OVERSAMPLE * num_points, channels)
        uncertainty = -sample_at(channels, candidates)[:, 0].abs()
        fresh = uniform_points(generators, counts, num_points - int(IMPORTANT * num_points), channels)
        points = important_points(candidates, uncertainty, fresh)
        soft = sample_at(masks, points)[:, 0]
    values = sample_at(channels, points)[:, 0].float()
    bce = F.binary_cross_entropy_with_logits(values, soft, reduction="none").mean(1)
    probability = values.sigmoid()
    dice = 1 - (2 * (probability * soft).sum(1) + 1) / (probability.sum(1) + soft.sum(1) + 1)
    return bce, dice


def segment_index(
    target: Int[Tensor, "batch rows columns"], void_id: int = 0
) -> tuple[Int[Tensor, "segments"], Int[Tensor, "segments"], list[int]]:
    """All segments of a batch of id maps: their image's index, their id, and how many each image has."""
    found = [ids[ids != void_id] for ids in (image.unique() for image in target)]
    counts = [len(ids) for ids in found]
    images = torch.repeat_interleave(torch.arange(len(target)), torch.tensor(counts))
    return images.to(target.device), torch.cat(found), counts


def denoising_loss(
    prediction: Float[Tensor, "batch channels height width"],
    target: Float[Tensor, "batch channels height width"],
    weight: Float[Tensor, "batch"],
    known: Float[Tensor, "batch 1 height width"],
) -> Float[Tensor, "batch"]:
    """Weighted squared error of each sample, the mean over ALL latent elements, void cells counting as 0.

    Args:
        prediction: the network's output.
        target: what it should be (noise, z_0 or v).
        weight: per sample, from `NoiseSchedule.loss_weight`.
        known: 1 where the latent cell is to be learned, 0 where it is void.
    """
    return weight * (known * (prediction.float() - target).square()).mean(dim=(1, 2, 3))


def consistency_loss(
    answer: Float[Tensor, "batch channels height width"],
    target: Float[Tensor, "batch channels height width"],
    known: Float[Tensor, "batch 1 height width"],
    *,
    huber: float,
) -> Float[Tensor, "batch"]:
    """Pseudo-Huber distance sqrt(d^2 + c^2) - c of two estimates of z_0, the mean over latent elements, void ones 0.

    Args:
        huber: c; differences far below it count by their square, far above it by themselves.
    """
    distance = ((answer.float() - target).square() + huber**2).sqrt() - huber
    return (known * distance).mean(dim=(1, 2, 3))
