"""From queries to a panoptic map: Mask2Former's own post-processing, class and mask branches combined.

Masks may overlap and need not cover the image, as nothing in the objective makes them exclusive (supplement A,
"Evaluation Procedure"); so pixels go to the query whose class probability times mask probability is largest.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..models.mask2former import ViTMask2Former
from .images import Picture, as_list, as_rgb, to_square
from .output import PanopticOutput


@torch.no_grad()
def panoptic_from_queries(
    class_logits: Float[Tensor, "queries labels"],
    mask_logits: Float[Tensor, "queries rows columns"],
    *,
    size: tuple[int, int],
    categories: Sequence[Mapping[str, Any]],
    threshold: float,
    overlap: float,
) -> PanopticOutput:
    """The maps of one image.

    Queries that say "no object", or a class with a probability of at most `threshold`, are dropped. A pixel goes to
    the query with the largest product of class and mask probability, and is void where that mask is below 0.5. A query
    that is left with less than `overlap` of its mask is dropped too. Equal stuff is merged under its lowest id.

    Args:
        class_logits: label k is the class of `categories[k]`, the last one is "no object".
        mask_logits: resized to `size` (bilinear) before anything else.
        size: (height, width) of the result.
        categories: COCO category dicts.
        threshold: of the class probability (0.8 in Mask2Former's configurations for COCO).
        overlap: 0.8 there.

    Returns:
        One image. Its `instance_ids` are the ids before equal stuff is merged, its `semantic` map is the arg max over
        classes of the sum over all queries of class times mask probability.
    """
    masks = F.interpolate(mask_logits[None].float(), size=size, mode="bilinear", align_corners=False)[0].sigmoid()
    probabilities = class_logits.float().softmax(-1)
    semantic = torch.einsum("ql,qhw->lhw", probabilities[:, :-1], masks).argmax(0) + 1
    scores, labels = probabilities.max(-1)
    kept = (labels < len(categories)) & (scores > threshold)
    masks, scores, chosen = masks[kept], scores[kept], labels[kept].tolist()
    ids, instances = np.zeros(size, np.int32), np.zeros(size, np.int32)
    segments: list[dict[str, Any]] = []
    if len(masks):
        best = (scores[:, None, None] * masks).argmax(0)
        inside = (masks >= 0.5).gather(0, best[None])[0].cpu().numpy()
        areas = (masks >= 0.5).flatten(1).sum(1).tolist()
        winner = best.cpu().numpy()
        merged: dict[int, dict[str, Any]] = {}
        for query, label in enumerate(chosen):
            won = winner == query
            pixels = won & inside
            if not pixels.any() or won.sum() < overlap * areas[query]:
                continue
            category = categories[label]
            instances[pixels] = query + 1
            if not category.get("isthing", 1) and label in merged:
                segment = merged[label]
                segment["area"] += int(pixels.sum())
            else:
                segment = {"id": query + 1, "category_id": category["id"], "isthing": category.get("isthing")}
                segment["area"] = int(pixels.sum())
                segments.append(segment)
                merged[label] = segment
            ids[pixels] = segment["id"]
    return PanopticOutput(
        ids=[ids],
        segments=[segments],
        instance_ids=[instances],
        semantic=[semantic.cpu().numpy().astype(np.int32)],
        depth=[None],
        categories=[dict(category) for category in categories],
    )


@torch.no_grad()
def segment_images(
    model: ViTMask2Former, images: Picture | Sequence[Picture], *, batch_size: int = 16
) -> PanopticOutput:
    """Segment images of any size; results have the images' own sizes.

    Args:
        model: with its categories, thresholds and image size.
        images: one or more PIL images, uint8 arrays [H, W, 3], or float tensors [3, H, W] in [0, 1].
        batch_size: images at a time.

    Raises:
        InputError: a picture that is none.
    """
    pictures = [as_rgb(image) for image in as_list(images)]
    output = PanopticOutput(categories=[dict(category) for category in model.config.categories])
    for start in range(0, len(pictures), batch_size):
        group = pictures[start : start + batch_size]
        squares = torch.stack([to_square(picture, model.config.image_size) for picture in group])
        classes, masks = model(squares.to(model.device, model.dtype))
        for picture, class_logits, mask_logits in zip(group, classes[-1], masks[-1], strict=True):
            output.extend(
                panoptic_from_queries(
                    class_logits.float(),
                    mask_logits.float(),
                    size=(picture.height, picture.width),
                    categories=model.config.categories,
                    threshold=model.config.threshold,
                    overlap=model.config.overlap,
                )
            )
    return output
