"""How well an autoencoder reproduces id maps: class-agnostic PQ and mIoU over ids (Table S1)."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from ..data.panoptic import PanopticDataset, collate
from ..evaluation.panoptic_quality import PanopticQuality
from ..evaluation.semantic_iou import SemanticIoU
from ..models.autoencoder import MaskAutoencoder
from ..pipeline.postprocess import instances_from_logits, semantic_from_logits
from .segmentation import agnostic_segments


@torch.no_grad()
def reconstruct(
    autoencoder: MaskAutoencoder, ids: Int[Tensor, "height width"], *, threshold: float = 0.0, min_area: int = 0
) -> Int[np.ndarray, "height width"]:
    """One id map through the autoencoder: the arg max of its output, cleaned if asked."""
    logits = autoencoder.decode(autoencoder.encode(ids[None].to(autoencoder.device)).mean)[0]
    size = (ids.shape[0], ids.shape[1])
    return instances_from_logits(logits, size=size, threshold=threshold, min_area=min_area).cpu().numpy()


@torch.no_grad()
def decoded_batches(
    autoencoder: MaskAutoencoder, dataset: PanopticDataset, *, batch_size: int
) -> Iterator[tuple[dict[str, Any], Float[Tensor, "batch ids height width"]]]:
    """Batches of a data set in its order, each with the logits of its reconstructed id maps."""
    for start in tqdm(range(0, len(dataset), batch_size), desc="reconstruction", unit="batch"):
        batch = collate([dataset[i] for i in range(start, min(start + batch_size, len(dataset)))])
        yield batch, autoencoder.decode(autoencoder.encode(batch["ids"].to(autoencoder.device)).mean)


def evaluate_reconstruction(
    autoencoder: MaskAutoencoder,
    dataset: PanopticDataset,
    *,
    threshold: float = 0.5,
    min_area: int = 512,
    batch_size: int = 16,
) -> dict[str, Any]:
    """PQ of the thresholded reconstruction and mIoU of its arg max, at the data set's image size.

    Targets are the id maps that the autoencoder sees, with ids drawn anew for each image. mIoU has one class an id and
    averages over the ids that occur (the released code also averages in id 0, which never occurs: a ceiling below 1).

    Returns:
        {"class_agnostic": as `PanopticQuality.compute`, "miou": in [0, 1]}.
    """
    quality = PanopticQuality(dataset.categories, class_agnostic=True)
    iou = SemanticIoU(autoencoder.config.num_ids - 1)
    for batch, decoded in decoded_batches(autoencoder, dataset, batch_size=batch_size):
        for target, segments, logits in zip(batch["ids"].cpu().numpy(), batch["segments"], decoded, strict=True):
            cleaned = instances_from_logits(logits, size=target.shape, threshold=threshold, min_area=min_area)
            predicted = cleaned.cpu().numpy()
            quality.update(target, segments, predicted, agnostic_segments(predicted))
            iou.update(target, semantic_from_logits(logits, size=target.shape).cpu().numpy())
    return {"class_agnostic": quality.compute(), "miou": iou.compute()["miou"]}
