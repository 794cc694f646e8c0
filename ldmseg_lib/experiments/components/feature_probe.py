"""Linear probes of a frozen image encoder: which classes and which pixels its features predict, latent cell by cell.

Reconstructive features predict pixels, semantic ones classes. Ridge regression is fitted on cells of training images
and evaluated on cells of held-out images.
"""

from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from ...data.panoptic import PanopticDataset, collate
from ...models.image_encoders import ImageEncoder

RIDGE = 1e-3
"""Weight of the squared coefficients, per cell; features have unit variance."""

MOST_CELLS = 2**16
"""A split with more cells is subsampled evenly, so that full-size features fit into memory."""

Cells = Float[Tensor, "cells channels"]


@torch.no_grad()
def probe_features(
    encoder: ImageEncoder,
    train: PanopticDataset,
    held_out: PanopticDataset,
    *,
    cells: int,
    images: int = 256,
    batch_size: int = 32,
) -> dict[str, Any]:
    """How well a linear map of an encoder's features predicts each cell's class and its pixels.

    Args:
        encoder: its `features` are probed, before any projection that is trained with the denoiser.
        train: the regression is fitted on its first `images` images.
        held_out: the regression is evaluated on its first `images` images.
        cells: side of the grid of latent cells.
        images: maximum number of each.
        batch_size: images at a time.

    Returns:
        {"class_accuracy": accuracy of the class at the cell's central pixel, void left out; "most_frequent": that of
        the most frequent class; "pixels_explained": share of the variance of the cells' pixels that is explained (R^2);
        "channels"}.
    """
    fit, test = (_cells(encoder, data, cells, images, batch_size) for data in (train, held_out))
    mean, std = fit[0].mean(0), fit[0].std(0).clamp(min=1e-6)
    inputs = [F.pad((part[0] - mean) / std, (0, 1), value=1.0) for part in (fit, test)]
    known = [part[2] > 0 for part in (fit, test)]
    classes = F.one_hot(fit[2][known[0]], int(fit[2].max()) + 1).double()
    scores = inputs[1][known[1]] @ _ridge(inputs[0][known[0]], classes)
    correct = scores.argmax(1) == test[2][known[1]]
    commonest = classes.sum(0).argmax()
    errors = (inputs[1] @ _ridge(inputs[0], fit[1].double()) - test[1]).square().sum()
    variance = (test[1] - fit[1].mean(0)).square().sum()
    return {
        "class_accuracy": correct.double().mean().item(),
        "most_frequent": (test[2][known[1]] == commonest).double().mean().item(),
        "pixels_explained": (1 - errors / variance).item(),
        "channels": fit[0].shape[1],
    }


def _cells(
    encoder: ImageEncoder, data: PanopticDataset, cells: int, images: int, batch_size: int
) -> tuple[Cells, Float[Tensor, "cells pixels"], Int[Tensor, "cells"]]:
    """Features, pixels and class of every cell of the first images."""
    parts: list[list[Tensor]] = []
    device = next(encoder.parameters()).device
    images = min(images, len(data))
    every = -(-images * cells**2 // MOST_CELLS)
    for start in range(0, images, batch_size):
        batch = collate([data[i] for i in range(start, min(start + batch_size, images))])
        features = encoder.features(batch["image"].to(device)).cpu()
        if features.shape[-1] != cells:
            features = F.interpolate(features, size=(cells, cells), mode="bilinear", align_corners=False)
        side = batch["image"].shape[-1] // cells
        pixels = F.unfold(batch["image"], side, stride=side).transpose(1, 2)
        centres = batch["semantic"][:, side // 2 :: side, side // 2 :: side]
        columns = (features.flatten(2).transpose(1, 2).flatten(0, 1), pixels.flatten(0, 1), centres.flatten())
        parts.append([column[::every] for column in columns])
    features, pixels, classes = (torch.cat(column) for column in zip(*parts))
    return features.double(), pixels.double(), classes


def _ridge(inputs: Cells, targets: Float[Tensor, "cells outputs"]) -> Float[Tensor, "channels outputs"]:
    gram = inputs.T @ inputs
    penalty = RIDGE * len(inputs) * torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(gram + penalty, inputs.T @ targets)


@torch.no_grad()
def feature_pictures(
    vae: AutoencoderKL,
    vit: ImageEncoder,
    images: Float[Tensor, "images 3 height width"],
) -> dict[str, Float[np.ndarray, "images rows columns 3"]]:
    """RGB images in [0, 1], the reconstruction of `vae`, and the features of both encoders, as pictures by title."""
    latents = vae.encode(images * 2 - 1).latent_dist.mean
    pictures = {
        "image": images,
        "reconstruction": (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1),
        "reconstructive features": principal_colors(latents),
        "semantic features": principal_colors(vit.features(images)),
    }
    return {title: picture.cpu().float().permute(0, 2, 3, 1).numpy() for title, picture in pictures.items()}


def principal_colors(features: Float[Tensor, "images channels rows columns"]) -> Float[Tensor, "images 3 rows columns"]:
    """The first three principal components of all cells as RGB in [0, 1], for display."""
    flat = features.double().transpose(0, 1).flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    left, _, _ = torch.linalg.svd(flat @ flat.T)
    shown = left[:, :3].T @ flat
    low, high = shown.quantile(0.02, 1, keepdim=True), shown.quantile(0.98, 1, keepdim=True)
    shown = ((shown - low) / (high - low).clamp(min=1e-9)).clamp(0, 1)
    return shown.unflatten(1, (len(features), *features.shape[2:])).transpose(0, 1).float()
