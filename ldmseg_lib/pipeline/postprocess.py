"""From decoded logits to a panoptic map: the post-processing of Supplement A, without the slips of its pseudo-code."""

import math
from collections.abc import Collection

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..core.errors import InputError
from .resized_argmax import resized_argmax


def instances_from_logits(
    mask_logits: Float[Tensor, "ids rows columns"],
    *,
    size: tuple[int, int] | None = None,
    threshold: float = 0.5,
    min_area: int = 512,
    void_id: int = 0,
    overlap: float | None = None,
) -> Int[Tensor, "height width"]:
    """The id of each pixel: arg max, softmax threshold per pixel, minimum area per segment; no classes involved.

    Class-agnostic PQ is measured on these ids.

    Args:
        mask_logits: one logit per id, at the decoder's resolution.
        size: (height, width) of the result. The logits are resized to it (bilinear, align_corners=False) before the
            softmax; None keeps their resolution.
        threshold: pixels whose largest softmax value, over all ids, is below it become void; 0 is arg max alone.
        min_area: segments with fewer pixels than this, in pixels of the result and after the threshold, become void.
        void_id: the id that is no segment.
        overlap: None, or the released code's extra filter, which neither paper nor supplement mentions: a segment stays
            only if its pixels are at least this share of the pixels where the sigmoid of its logit reaches `threshold`.

    Returns:
        int64 on the device of the logits, `void_id` where there is no segment.
    """
    size = _checked_size(mask_logits, size, "mask_logits")
    num_ids = mask_logits.shape[0]
    ids, confident = resized_argmax(mask_logits, size, threshold=threshold)
    if confident is not None:
        ids.masked_fill_(~confident, void_id)
    num_values = max(num_ids, void_id + 1)
    areas = _count(ids, num_values)
    keep = areas >= max(1, min_area)
    if overlap is not None:
        keep[:num_ids] &= areas[:num_ids] >= overlap * _sigmoid_areas(mask_logits, size, threshold)
    kept_id = torch.arange(num_values, device=ids.device).where(keep, void_id)
    return kept_id[ids]


def postprocess_panoptic(
    mask_logits: Float[Tensor, "ids rows columns"],
    semantic_logits: Float[Tensor, "classes+1 rows columns"] | Int[Tensor, "height width"],
    *,
    size: tuple[int, int] | None = None,
    threshold: float = 0.5,
    min_area: int = 512,
    void_id: int = 0,
    stuff_ids: Collection[int] = (),
    ignore_void_votes: bool = True,
    overlap: float | None = None,
) -> tuple[Int[Tensor, "height width"], dict[int, int]]:
    """Ids of `instances_from_logits`, each with the class that most of its pixels have in the semantic map.

    Args:
        semantic_logits: one logit per class index (channel 0 is void) at the decoder's resolution, resized like the
            mask logits; or class indices at the size of the result.
        stuff_ids: class indices of stuff; segments of one such class are merged under their lowest id.
        ignore_void_votes: pixels of semantic class 0 do not vote. Otherwise they do, and where they win the segment
            becomes void.

    Returns:
        (panoptic_seg, segments_to_categories): int64 ids on the device of the logits, `void_id` where there is no
        segment, and the class index (1 .. classes) of every id on the map. A segment all whose pixels are semantically
        void has no class and becomes void.

    Example:
        >>> import torch
        >>> from ldmseg_lib import postprocess_panoptic
        >>> mask_logits = torch.zeros(3, 4, 4)  # ids 0 (void), 1 and 2
        >>> mask_logits[1, :, :2] = 9
        >>> mask_logits[2, :, 2:] = 9
        >>> semantic = torch.full((4, 4), 5)  # class index per pixel
        >>> semantic[:, 2:] = 3
        >>> panoptic_seg, segments_to_categories = postprocess_panoptic(mask_logits, semantic, min_area=4)
        >>> panoptic_seg
        tensor([[1, 1, 2, 2],
                [1, 1, 2, 2],
                [1, 1, 2, 2],
                [1, 1, 2, 2]])
        >>> segments_to_categories
        {1: 5, 2: 3}
    """
    ids = instances_from_logits(
        mask_logits, size=size, threshold=threshold, min_area=min_area, void_id=void_id, overlap=overlap
    )
    if semantic_logits.dim() == 2:
        semantic = semantic_logits.to(ids)
        if semantic.shape != ids.shape:
            raise InputError(
                f"the semantic map is {tuple(semantic.shape)} but the result {tuple(ids.shape)}; give class indices at "
                "the size of the result, or class logits"
            )
    else:
        semantic = semantic_from_logits(semantic_logits, size=(ids.shape[0], ids.shape[1]))
    return assign_classes(
        ids,
        semantic,
        num_ids=max(mask_logits.shape[0], void_id + 1),
        num_classes=semantic_logits.shape[0] if semantic_logits.dim() == 3 else int(semantic.max()) + 1,
        void_id=void_id,
        stuff_ids=stuff_ids,
        ignore_void_votes=ignore_void_votes,
    )


def semantic_from_logits(
    semantic_logits: Float[Tensor, "classes+1 rows columns"], *, size: tuple[int, int] | None = None
) -> Int[Tensor, "height width"]:
    """The class index of each pixel: arg max of the logits, resized to `size` like mask logits (0 is void)."""
    return resized_argmax(semantic_logits, _checked_size(semantic_logits, size, "semantic_logits"))[0]


def assign_classes(
    ids: Int[Tensor, "height width"],
    semantic: Int[Tensor, "height width"],
    *,
    num_ids: int,
    num_classes: int,
    void_id: int = 0,
    stuff_ids: Collection[int] = (),
    ignore_void_votes: bool = True,
) -> tuple[Int[Tensor, "height width"], dict[int, int]]:
    """The second half of `postprocess_panoptic`: the majority vote, and the merging of equal stuff.

    Args:
        ids: segment ids below `num_ids`, `void_id` where there is no segment.
        semantic: class indices below `num_classes`, 0 is void.
    """
    votes = _count(ids * num_classes + semantic, num_ids * num_classes).view(num_ids, num_classes)
    if ignore_void_votes:
        votes[:, 0] = 0
    counts, classes = torch.stack(votes.max(1)).tolist()

    new_id = [void_id] * num_ids
    segments_to_categories: dict[int, int] = {}
    stuff_segment: dict[int, int] = {}
    stuff_ids = frozenset(stuff_ids)
    for segment_id, (count, category) in enumerate(zip(counts, classes, strict=True)):
        if segment_id == void_id or count == 0 or category == 0:
            continue
        new_id[segment_id] = stuff_segment.setdefault(category, segment_id) if category in stuff_ids else segment_id
        segments_to_categories[new_id[segment_id]] = category
    return torch.tensor(new_id, device=ids.device)[ids], segments_to_categories


def _checked_size(logits: Tensor, size: tuple[int, int] | None, name: str) -> tuple[int, int]:
    if logits.dim() != 3 or not logits.is_floating_point() or 0 in logits.shape:
        raise InputError(
            f"{name} has shape {tuple(logits.shape)} and type {logits.dtype}; give floats [channels, H, W]"
        )
    height, width = (logits.shape[1], logits.shape[2]) if size is None else (int(size[0]), int(size[1]))
    if min(height, width) < 1:
        raise InputError(f"size {(height, width)}; give a positive height and width")
    return height, width


def _count(values: Int[Tensor, "height width"], num_values: int) -> Int[Tensor, " num_values"]:
    """How often each value below `num_values` occurs."""
    flat = values.flatten()
    if flat.device.type == "cpu":
        return torch.bincount(flat, minlength=num_values)
    # bincount looks for the largest value on the host
    ones = torch.ones(1, dtype=torch.int64, device=flat.device).expand_as(flat)
    return torch.zeros(num_values, dtype=torch.int64, device=flat.device).scatter_add_(0, flat, ones)


def _sigmoid_areas(
    mask_logits: Float[Tensor, "ids rows columns"], size: tuple[int, int], threshold: float
) -> Int[Tensor, " ids"]:
    """Pixels of each resized logit whose sigmoid is at least `threshold`."""
    level = math.log(threshold / (1 - threshold)) if 0 < threshold < 1 else math.copysign(math.inf, threshold - 0.5)
    return torch.stack(
        [
            (F.interpolate(logits[None, None].float(), size, mode="bilinear", align_corners=False) >= level).sum()
            for logits in mask_logits.detach()
        ]
    )
