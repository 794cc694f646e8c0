"""One autoencoder for each encoding of the ids and each seed, all of one size: what Table S1 compares.

Always 256 ids (supplement B). The encoding is the input alone: output (one logit an id), loss, data, random ids, steps
and widths are the same for all, so that the networks differ in their first convolution and in nothing else.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ...core.profiles import Profile, check_profile
from ...core.randomness import derive_seed
from ...data.splits import training_split, validation_crops
from ...models.encodings import get_encoding
from ...training.autoencoder import train_autoencoder
from ..reconstruction import evaluate_reconstruction

TABLE_S1 = ("bits", "colors", "positional")
NUM_IDS = 256


def encoding_profile(profile: Profile, encoding: str) -> Profile:
    """`profile` with the autoencoder of Table S1 for `encoding` in place of its own.

    Raises:
        ProfileError: its shape does not fit together.
    """
    settings = profile.encodings
    autoencoder = dataclasses.replace(
        profile.autoencoder,
        encoding=encoding,  # type: ignore[arg-type]
        channels=settings.channels,
        latent_channels=settings.latent_channels,
        num_upscalers=settings.num_upscalers,
        num_points=settings.num_points,
        # panoptic maps alone, whose ids are drawn from all 255; nothing is diffused, so the scale does not matter
        semantic_fraction=0.0,
        latent_scale=1.0,
        training=settings.training,
    )
    data = dataclasses.replace(profile.data, num_ids=NUM_IDS, image_size=settings.image_size)
    changed = dataclasses.replace(profile, data=data, autoencoder=autoencoder)
    check_profile(changed)
    return changed


def cropped(profile: Profile) -> Profile:
    """`profile` as its autoencoder is trained: on random crops where `encodings` says so.

    The network is convolutional: it learns from crops, at less cost a step, and is judged on whole maps.
    """
    side = profile.encodings.crop_size
    if side is None:
        return profile
    return dataclasses.replace(profile, data=dataclasses.replace(profile.data, image_size=side, crop_size=side))


def margin(encoding: str) -> float:
    """The smallest distance between the vectors of two of 256 ids, in units of a channel's range; 1 for bits."""
    vectors = get_encoding(encoding, NUM_IDS).codebook
    exact = "donot_use_mm_for_euclid_dist"  # the matrix product loses digits on close greys
    return float(torch.cdist(vectors, vectors, compute_mode=exact).fill_diagonal_(torch.inf).min() / 2)


def study_encodings(
    profile: Profile,
    root: str | Path,
    folder: str | Path,
    *,
    seed: int = 0,
    on_log: Callable[[str, int], Callable[[Mapping[str, float]], None] | None] | None = None,
) -> list[dict[str, Any]]:
    """Train and evaluate an autoencoder for each encoding and seed of the profile; finished trainings are loaded.

    Args:
        profile: its section `encodings` says which palettes, seeds and budget.
        root: the data folder.
        folder: gets <encoding>-<seed>/ with checkpoints and weights.
        seed: of the run; each of the profile's seeds is derived from it.
        on_log: returns, for (encoding, seed), a callback for logged values.

    Returns:
        A dict for each training, seed by seed: "encoding", "seed", "input_channels", "separation" (the `margin`),
        "parameters", "miou", "pq", "sq", "rq" (fractions), "loss" and "steps".
    """
    settings, rows = profile.encodings, []
    for own_seed in settings.seeds:
        derived = derive_seed("encodings", seed, own_seed)
        for encoding in (*TABLE_S1, *settings.palettes):
            changed = encoding_profile(profile, encoding)
            autoencoder, record = train_autoencoder(
                cropped(changed),
                training_split(cropped(changed), root, seed=derived),
                Path(folder) / f"{encoding}-{own_seed}",
                seed=derived,
                on_log=on_log(encoding, own_seed) if on_log else None,
            )
            quality = evaluate_reconstruction(
                autoencoder,
                validation_crops(changed, root, seed=derived, max_images=settings.num_images),
                threshold=settings.threshold,
                min_area=settings.min_area,
            )
            assert autoencoder.encoding is not None  # only the depth autoencoder has none
            rows.append(
                {
                    "encoding": encoding,
                    "seed": own_seed,
                    "input_channels": autoencoder.encoding.num_channels,
                    "separation": margin(encoding),
                    "parameters": sum(p.numel() for p in autoencoder.parameters()),
                    "miou": quality["miou"],
                    **{key: quality["class_agnostic"]["All"][key] for key in ("pq", "sq", "rq")},
                    "loss": record.final_loss,
                    "steps": record.steps,
                }
            )
    return rows
