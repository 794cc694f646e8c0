"""From decoded logits to a panoptic map: the post-processing of Supplement A, without the slips of its pseudo-code."""

from collections.abc import Collection

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .errors import InputError

_TILE_VALUES = 1 << 21


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
    size = _checked_size(mask_logits, size)
    num_ids = mask_logits.shape[0]
    ids = torch.empty(size, dtype=torch.int64, device=mask_logits.device)
    wide = torch.zeros(num_ids, dtype=torch.int64, device=mask_logits.device)
    for rows, logits in _upsampled_tiles(mask_logits, size):
        top, winner = logits.max(0)
        if overlap is not None:
            wide += (logits.sigmoid() >= threshold).sum((1, 2))
        confidence = logits.sub_(top).exp_().sum(0).reciprocal_()
        ids[rows] = winner.masked_fill_(confidence < threshold, void_id)
    areas = torch.bincount(ids.flatten(), minlength=num_ids)
    keep = areas >= min_area
    if overlap is not None:
        keep &= areas >= overlap * wide
    keep[void_id] = False
    kept_id = torch.arange(len(keep), device=ids.device).where(keep, void_id)
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
        semantic = semantic_from_logits(semantic_logits, size=tuple(ids.shape))
    return assign_classes(ids, semantic, void_id=void_id, stuff_ids=stuff_ids, ignore_void_votes=ignore_void_votes)


def semantic_from_logits(
    semantic_logits: Float[Tensor, "classes+1 rows columns"], *, size: tuple[int, int] | None = None
) -> Int[Tensor, "height width"]:
    """The class index of each pixel: arg max of the logits, resized to `size` like mask logits (0 is void)."""
    size = _checked_size(semantic_logits, size)
    semantic = torch.empty(size, dtype=torch.int64, device=semantic_logits.device)
    for rows, logits in _upsampled_tiles(semantic_logits, size):
        semantic[rows] = logits.argmax(0)
    return semantic


def assign_classes(
    ids: Int[Tensor, "height width"],
    semantic: Int[Tensor, "height width"],
    *,
    void_id: int = 0,
    stuff_ids: Collection[int] = (),
    ignore_void_votes: bool = True,
) -> tuple[Int[Tensor, "height width"], dict[int, int]]:
    """The majority vote and the merging of equal stuff, the second half of `postprocess_panoptic`.

    Args:
        ids: segment ids, `void_id` where there is no segment.
        semantic: class indices, 0 is void.
    """
    num_ids, num_classes = max(int(ids.max()), void_id) + 1, int(semantic.max()) + 1
    votes = torch.bincount((ids * num_classes + semantic).flatten(), minlength=num_ids * num_classes)
    votes = votes.view(num_ids, num_classes)
    votes[void_id] = 0
    if ignore_void_votes:
        votes[:, 0] = 0
    counts, classes = (values.tolist() for values in votes.max(1))

    new_id = [void_id] * num_ids
    segments_to_categories: dict[int, int] = {}
    stuff_segment: dict[int, int] = {}
    for segment_id, (count, category) in enumerate(zip(counts, classes, strict=True)):
        if count == 0 or category == 0:
            continue
        new_id[segment_id] = stuff_segment.setdefault(category, segment_id) if category in stuff_ids else segment_id
        segments_to_categories[new_id[segment_id]] = category
    return torch.tensor(new_id, device=ids.device)[ids], segments_to_categories


def _checked_size(logits: Tensor, size: tuple[int, int] | None) -> tuple[int, int]:
    if logits.dim() != 3 or not logits.is_floating_point():
        raise InputError(f"logits of shape {tuple(logits.shape)} and type {logits.dtype}; give floats [N, H, W]")
    return (logits.shape[1], logits.shape[2]) if size is None else (int(size[0]), int(size[1]))


def _upsampled_tiles(logits: Tensor, size: tuple[int, int]):
    """Bands of rows of the resized logits, so that they never exist whole."""
    height = size[0]
    whole = logits[None].float()
    step = max(1, _TILE_VALUES // (logits.shape[0] * size[1])) if logits.device.type == "cpu" else height
    for start in range(0, height, step):
        rows = slice(start, min(start + step, height))
        if tuple(logits.shape[1:]) == size:
            yield rows, whole[0, :, rows].clone()
            continue
        scale = logits.shape[1] / height
        centers = (torch.arange(rows.start, rows.stop, device=logits.device) + 0.5) * scale - 0.5
        low = centers.clamp_(min=0).floor().long()
        high = (low + 1).clamp_(max=logits.shape[1] - 1)
        weight = (centers - low)[:, None]
        band = torch.lerp(whole[:, :, low], whole[:, :, high], weight)
        yield rows, F.interpolate(band, (len(centers), size[1]), mode="bilinear", align_corners=False)[0]
