"""Consensus: several samples of one image vote, pixel by pixel, and say where they agree.

Each sample errs elsewhere: a region in two ids, a lost thing. What most of them say is better than any of them, and
where they differ the answer is doubtful. Short chains do: four samples of five steps cost one of twenty.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from jaxtyping import Float, Int

from ..core.errors import InputError
from .decoding import panoptic_map
from .output import PanopticOutput
from .segment_colors import matched_ids

IdMap = Int[np.ndarray, "height width"]


@dataclass(frozen=True)
class Agreement:
    """What several samples of one image say together."""

    reference: int  # number of the sample that the others agree with most
    consensus: IdMap  # at each pixel what most samples say, in the reference's ids; void where another segment wins
    share: Float[np.ndarray, "height width"]  # of the samples that say it, in (0, 1]


def sample_agreement(samples: Sequence[IdMap]) -> Agreement:
    """Match the samples of one image and let them vote.

    Args:
        samples: id maps of one size, 0 is void.

    Raises:
        InputError: there is no sample, or their sizes differ.
    """
    if not samples or len({sample.shape for sample in samples}) != 1:
        raise InputError("agreement needs at least one sample, all of one size")
    pairs = [[float((matched_ids(a, b) == b).mean()) for b in samples] for a in samples]
    reference = int(np.argmax(np.mean(pairs, axis=0)))
    base = samples[reference]
    aligned = np.stack([matched_ids(sample, base) for sample in samples])
    # segments that the reference does not have are one further answer
    other = int(base.max()) + 1
    aligned = np.minimum(aligned, other)
    names, numbers = np.unique(aligned, return_inverse=True)
    votes = np.stack([(numbers.reshape(aligned.shape) == number).sum(0) for number in range(len(names))])
    consensus = names[votes.argmax(0)]
    return Agreement(reference, np.where(consensus == other, 0, consensus), votes.max(0) / len(samples))


def agreement_with(ids: IdMap, samples: Sequence[IdMap]) -> Float[np.ndarray, "height width"]:
    """The share of `samples` that say of each pixel what `ids` says, in [0, 1]; float32."""
    same = np.stack([matched_ids(sample, ids) == ids for sample in samples])
    return same.mean(0, dtype=np.float32)


def without_small(ids: IdMap, min_area: int) -> IdMap:
    """`ids` with segments of fewer pixels as void."""
    names, inverse, areas = np.unique(ids, return_inverse=True, return_counts=True)
    return np.where(areas < min_area, 0, names)[inverse].reshape(ids.shape)


def majority(maps: Sequence[IdMap]) -> IdMap:
    """The most frequent value at each pixel, the smallest of equally frequent ones."""
    names, numbers = np.unique(np.stack(maps), return_inverse=True)
    numbers = numbers.reshape(len(maps), *maps[0].shape)
    votes = np.stack([(numbers == number).sum(0) for number in range(len(names))])
    return names[votes.argmax(0)]


def consensus_of(samples: Sequence[PanopticOutput], *, min_area: int) -> PanopticOutput:
    """The consensus of several samples of the same images: voted ids and classes, mean depth, and `agreement`.

    Args:
        samples: outputs of equal length, one entry an image.
        min_area: smaller segments of the voted map are void, in pixels.
    """
    output = PanopticOutput(categories=samples[0].categories)
    for index in range(len(samples[0])):
        found = sample_agreement([sample.instance_ids[index] for sample in samples])
        output.extend(voted([sample.entry(index) for sample in samples], found, min_area=min_area))
    return output


def voted(samples: Sequence[PanopticOutput], found: Agreement, *, min_area: int) -> PanopticOutput:
    """`consensus_of` for the samples of one image, whose instance ids gave the agreement `found`."""
    ids, first = without_small(found.consensus, min_area), samples[0]
    classes = [one for sample in samples if (one := sample.semantic[0]) is not None]
    depths = [one for sample in samples if (one := sample.depth[0]) is not None]
    semantic = majority(classes) if classes else None
    panoptic, segments = panoptic_map(
        torch.from_numpy(ids.astype(np.int64)),
        None if semantic is None else torch.from_numpy(semantic.astype(np.int64)),
        num_ids=int(ids.max()) + 1,
        categories=first.categories,
    )
    return PanopticOutput(
        ids=[panoptic],
        segments=[segments],
        instance_ids=[ids.astype(np.int32)],
        semantic=[semantic],
        depth=[np.mean(depths, axis=0) if depths else None],
        categories=first.categories,
        maps={name: [_joined([sample.maps[name][0] for sample in samples])] for name in first.maps},
        agreement=[found.share.astype(np.float32)],
    )


def _joined(maps: Sequence[np.ndarray]) -> np.ndarray:
    """One map of several samples: the majority of labels, the mean of values."""
    return np.mean(maps, axis=0) if np.issubdtype(maps[0].dtype, np.floating) else majority(maps)


def require_room(num_samples: int, pixels: int) -> None:
    """Refuse a number of samples that memory cannot hold.

    Args:
        num_samples: of an image.
        pixels: of the largest image.

    Raises:
        InputError: there is no sample, or their maps alone need more memory than is free.
    """
    if num_samples < 1:
        raise InputError(f"num_samples is {num_samples}; give 1 for a single sample, or more for their consensus")
    # ids before and after matching, classes and votes, 8 bytes each at their widest
    needed, free = num_samples * pixels * 4 * 8, psutil.virtual_memory().available
    if needed > free:
        most = max(1, free // (pixels * 4 * 8))
        raise InputError(
            f"{num_samples} samples of an image of {pixels} pixels need {needed / 2**30:.1f} GiB, and"
            f" {free / 2**30:.1f} GiB are free; set num_samples to {most} or less, or give smaller images"
        )
