"""Training the baseline: Hungarian matching, then class, mask and Dice losses after every decoder layer."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.profiles import Mask2FormerProfile, Profile
from ..data.panoptic import PanopticDataset
from ..diffusion.set_prediction import class_normaliser, match_queries, set_losses
from ..models.mask2former import Backbone, ViTMask2Former, build_mask2former
from .loop import TrainingRecord, seen_settings, train
from .objective import ImageObjective


class Mask2FormerObjective(ImageObjective):
    """Mask2Former's losses, the same at every stage (Cheng et al., CVPR 2022, section 3).

    Args:
        model: learns, backbone included.
        class_index: category id to class index 1, 2, ..., of the data set.
        settings: weights of the losses, number of points.
        seed: of the points, drawn per (image, visit).
    """

    def __init__(
        self, model: ViTMask2Former, class_index: Mapping[int, int], settings: Mask2FormerProfile, *, seed: int = 0
    ) -> None:
        super().__init__({"mask2former": model}, seed=seed)
        self.class_index, self.settings = dict(class_index), settings

    def normalisers(self, batch: Mapping[str, Any]) -> dict[str, float]:
        """Segments, and the sum of the class loss's weights."""
        counts = [len(segments) for segments in batch["segments"]]
        settings = self.settings
        weights = class_normaliser(counts, queries=settings.queries, no_object_weight=settings.no_object_weight)
        return {"segments": sum(counts), "class_weights": weights}

    def forward(self, batch: Mapping[str, Any], totals: Mapping[str, float]) -> dict[str, Tensor]:
        """Weighted sum over all stages, and its three parts before they are weighted."""
        settings = self.settings
        class_logits, mask_logits = self.trained["mask2former"](batch["image"])
        masks, labels = self.targets(batch)
        pairs = match_queries(
            class_logits,
            mask_logits,
            masks,
            labels,
            class_weight=settings.class_weight,
            mask_weight=settings.mask_weight,
            dice_weight=settings.dice_weight,
            num_points=settings.num_points,
            generators=self.generators(batch, "matching"),
        )
        classes, bce, dice = set_losses(
            class_logits,
            mask_logits,
            masks,
            labels,
            pairs,
            no_object_weight=settings.no_object_weight,
            num_points=settings.num_points,
            generators=self.generators(batch, "points"),
        )
        classes = classes / totals["class_weights"]
        bce, dice = (term / max(1.0, totals["segments"]) for term in (bce, dice))
        loss = settings.class_weight * classes + settings.mask_weight * bce + settings.dice_weight * dice
        return {"loss": loss, "classes": classes, "masks": bce, "dice": dice}

    def targets(self, batch: Mapping[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
        """Masks [segments, height, width] and labels [segments] of each image; label k is class index k + 1."""
        device = batch["ids"].device
        masks, labels = [], []
        for ids, segments in zip(batch["ids"], batch["segments"], strict=True):
            numbers = torch.tensor([segment["id"] for segment in segments], dtype=torch.int64, device=device)
            classes = [self.class_index[segment["category_id"]] - 1 for segment in segments]
            masks.append(ids == numbers[:, None, None])
            labels.append(torch.tensor(classes, dtype=torch.int64, device=device))
        return masks, labels


def train_mask2former(
    profile: Profile,
    dataset: PanopticDataset,
    backbone: Backbone,
    folder: str | Path,
    *,
    input_size: int,
    seed: int = 0,
    on_log: Callable[[Mapping[str, float]], None] | None = None,
) -> tuple[ViTMask2Former, TrainingRecord]:
    """Train the profile's baseline on `dataset` from a pretrained `backbone`, and save it to `folder`/model.

    The saved weights are the averaged ones where the profile has an EMA.

    Args:
        input_size: side in pixels that the backbone sees of an image.
    """
    settings = profile.mask2former
    torch.manual_seed(seed)
    model = build_mask2former(
        settings,
        backbone,
        categories=dataset.categories,
        image_size=profile.data.image_size,
        input_size=input_size,
    )
    if settings.training.gradient_checkpointing:
        model.backbone.gradient_checkpointing_enable()
    objective = Mask2FormerObjective(model, dataset.class_index, settings, seed=seed)
    # how a ViT was pretrained, and how predictions are cleaned, is none of this training's settings
    shape = {k: v for k, v in seen_settings(profile, "mask2former")["mask2former"].items() if k not in _NOT_TRAINED}
    record, ema = train(
        objective,
        dataset,
        settings.training,
        folder,
        seed=seed,
        workers=profile.data.workers,
        title=f"Mask2Former, {model.config.backbone_kind}",
        identity=seen_settings(profile) | {"mask2former": shape, "input_size": input_size},
        on_log=on_log,
    )
    if ema is not None:
        ema.copy_to(p for p in objective.trained.parameters() if p.requires_grad)
    model.eval()
    model.save_pretrained(Path(folder) / "model")
    return model, record


_NOT_TRAINED = {"mae", "self_distilled", "threshold", "overlap"}
