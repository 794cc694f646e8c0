"""Pretraining a plain ViT by masked autoencoding (He et al., CVPR 2022): most patches are hidden and reconstructed.

For the baseline of notebook 09, where no weights fit: the embedded scenes are no photographs. Network and loss are
transformers' own. Not to be taken for the mask autoencoder, which is LDMSeg's.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import ViTMAEConfig, ViTMAEForPreTraining, ViTMAEModel

from ..core.errors import InputError
from ..core.profiles import Profile
from ..core.study_sections import MAEProfile
from ..models.image_encoders import IMAGENET_MEAN, IMAGENET_STD
from .loop import TrainingRecord, seen_settings, train
from .objective import ImageObjective


class MAEObjective(ImageObjective):
    """The squared error of hidden patches, each normalised by its own mean and variance.

    Args:
        model: learns; its decoder too.
        seed: of the hidden patches, drawn per (image, visit).
    """

    def __init__(self, model: ViTMAEForPreTraining, *, seed: int = 0) -> None:
        super().__init__({"mae": model}, seed=seed)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def forward(self, batch: Mapping[str, Any], totals: Mapping[str, float]) -> dict[str, Tensor]:
        """The loss of a batch of images."""
        model, images = self.trained["mae"], batch["image"]
        patches = model.vit.embeddings.patch_embeddings.num_patches
        noise = [torch.rand(patches, generator=generator) for generator in self.generators(batch, "patches")]
        output = model((images - self.mean) / self.std, noise=torch.stack(noise).to(images.device))
        return {"loss": output.loss * len(images) / totals["images"]}


def build_mae(settings: MAEProfile) -> ViTMAEForPreTraining:
    """The profile's ViT with its decoder, random weights.

    Raises:
        InputError: the profile names pretrained weights, or a shape that cannot be.
    """
    shape = (settings.hidden_size, settings.layers, settings.heads, settings.decoder_hidden_size)
    widths = [value for value in shape if value is not None]
    if None in (settings.patch_size, settings.mask_ratio, settings.decoder_layers) or len(widths) < len(shape):
        raise InputError("mask2former.mae.pretrained names weights, so there is nothing to pretrain; give it a shape")
    hidden, layers, heads, decoder_hidden = widths
    return ViTMAEForPreTraining(
        ViTMAEConfig(
            image_size=settings.input_size,
            patch_size=settings.patch_size,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * hidden,
            decoder_hidden_size=decoder_hidden,
            decoder_num_hidden_layers=settings.decoder_layers,
            decoder_num_attention_heads=heads,
            decoder_intermediate_size=4 * decoder_hidden,
            mask_ratio=settings.mask_ratio,
            norm_pix_loss=True,
        )
    )


def train_mae(
    profile: Profile,
    dataset: Dataset,
    folder: str | Path,
    *,
    seed: int = 0,
    on_log: Callable[[Mapping[str, float]], None] | None = None,
) -> tuple[ViTMAEModel, TrainingRecord]:
    """Pretrain the profile's ViT on the images of `dataset` and save it, without its decoder, to `folder`/vit.

    Raises:
        InputError: images of another size than the ViT's, or a profile that names pretrained weights.
    """
    settings = profile.mask2former.mae
    if settings.training is None:
        raise InputError("mask2former.mae.training is null; give it settings, or mask2former.mae.pretrained weights")
    if settings.input_size != profile.data.image_size:
        raise InputError(
            f"mask2former.mae.input_size {settings.input_size} must be data.image_size {profile.data.image_size} where"
            " the ViT is pretrained on the data set"
        )
    torch.manual_seed(seed)
    objective = MAEObjective(build_mae(settings), seed=seed)
    record, _ = train(
        objective,
        dataset,
        settings.training,
        folder,
        seed=seed,
        workers=profile.data.workers,
        title="masked autoencoding",
        identity=seen_settings(profile) | {"mae": {"shape": objective.trained["mae"].config.to_diff_dict()}},
        on_log=on_log,
    )
    vit = objective.trained["mae"].vit.eval()
    vit.save_pretrained(Path(folder) / "vit")
    return vit, record
