"""Notebook 13's work: a person's own folder, from its files to a judged model."""

import dataclasses
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image
from tqdm.auto import tqdm

from ...core import paths
from ...core.errors import InputError
from ...core.profiles import Profile
from ...data.convert import convert
from ...data.instance_sources import mask_folders
from ...data.panoptic import PanopticDataset
from ...data.scenes.dataset import scene_seed
from ...data.scenes.scene import CATEGORIES, draw_scene
from ...data.splits import training_split, validation_crops, validation_split
from ...data.transforms import crop_corner
from ...pipeline.ldmseg import LDMSegPipeline
from ...pipeline.segment_colors import ranked_ids
from ...training.autoencoder import train_autoencoder
from ...training.diffusion import train_diffusion
from ..plots import LossPlot
from ..reconstruction import evaluate_reconstruction
from ..segmentation import Cleaning
from .instance_quality import evaluate_instances

_SPLITS = ("train", "val")
_THINGS = {category["id"] for category in CATEGORIES if category["isthing"]}


def own_profile(profile: Profile) -> Profile:
    """`profile` with its section `own_dataset` put over data, autoencoder, diffusion and evaluation."""
    own = profile.own_dataset
    return dataclasses.replace(
        profile,
        data=dataclasses.replace(profile.data, crop_size=own.crop_size, num_ids=own.num_ids),
        autoencoder=dataclasses.replace(
            profile.autoencoder,
            semantic_fraction=own.semantic_fraction,
            training=dataclasses.replace(profile.autoencoder.training, steps=own.autoencoder_steps),
        ),
        diffusion=dataclasses.replace(
            profile.diffusion,
            tasks={"instance": 1 - own.semantic_fraction, "semantic": own.semantic_fraction},
            training=dataclasses.replace(profile.diffusion.training, steps=own.diffusion_steps),
        ),
        evaluation=dataclasses.replace(
            profile.evaluation,
            tile_size=own.crop_size,
            min_area=own.min_area,
            num_inference_steps=own.num_inference_steps,
            num_images=own.num_images,
        ),
    )


def own_folder(stage: Any) -> Path:
    """The folder given as data_root; without one, drawn scenes converted from one mask per thing.

    The scenes are twice as large as what the model sees, so that crops and tiles have something to do.
    """
    if stage.data_given:
        return stage.data_root
    target, own = stage.folder / "data", stage.profile.own_dataset
    if all((target / f"panoptic_{split}.json").exists() for split in _SPLITS):
        return target
    for split, scenes in zip(_SPLITS, (own.train_scenes, own.val_scenes)):
        masks = write_mask_folders(
            stage.folder / "masks" / split, split, scenes=scenes, size=2 * stage.profile.data.image_size
        )
        for part in (f"images/{split}", f"panoptic_{split}"):
            shutil.rmtree(target / part, ignore_errors=True)
        (target / f"panoptic_{split}.json").unlink(missing_ok=True)
        convert(mask_folders(masks, class_name="thing"), target, split, unlabelled="background")
    shutil.rmtree(stage.folder / "masks")
    return target


def write_mask_folders(folder: Path, split: str, *, scenes: int, size: int) -> Path:
    """Drawn scenes as in the 2018 Data Science Bowl: one folder an image, one mask a thing. Returns `folder`.

    Args:
        folder: gets <scene>/images/<scene>.png and <scene>/masks/<n>.png.
        split: of the embedded data set, whose first scenes are drawn.
        scenes: their number.
        size: height and width in pixels.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for index in tqdm(range(scenes), desc=f"drawing {split}", unit="scene"):
        seed = scene_seed(split, index)
        scene = draw_scene(seed, size=size, min_things=3, max_things=7)
        place = folder / str(seed)
        for part in ("images", "masks"):
            (place / part).mkdir(parents=True)
        Image.fromarray(scene.image).save(place / "images" / f"{seed}.png")
        things = [segment for segment in scene.segments if segment["category_id"] in _THINGS]
        for number, segment in enumerate(things):
            mask = np.where(scene.ids == segment["id"], 255, 0).astype(np.uint8)
            Image.fromarray(mask).save(place / "masks" / f"{number}.png")
    return folder


def train_and_judge(stage: Any, root: Path) -> dict[str, Any]:
    """Train autoencoder and diffusion model on `root`/train and judge them on `root`/val; the stage's metrics.

    With `own_dataset.start` the autoencoder is that pipeline's as it is, and its diffusion model is trained further.
    Leaves in the stage's folder: diffusion/pipeline/, and predictions in COCO's format.

    Raises:
        InputError: the folder has more classes than the model has ids, or the start does not fit the settings.
    """
    profile, folder = own_profile(stage.profile), stage.folder
    settings, name = profile.evaluation, stage.profile.own_dataset.start
    train = training_split(profile, root, seed=stage.seed)
    _require_ids(train, profile.data.num_ids)
    start = None if name is None else _start(name, profile)
    if start is None:
        losses = folder / "autoencoder_training" / "metrics.jsonl"
        autoencoder, first = train_autoencoder(
            profile,
            train,
            losses.parent,
            seed=stage.seed,
            on_log=LossPlot(losses, values=("cross_entropy", "bce", "dice")),
        )
    else:
        autoencoder, first = start.autoencoder, None
    ceiling = evaluate_reconstruction(
        autoencoder,
        validation_crops(profile, root, seed=stage.seed, max_images=settings.num_images),
        threshold=settings.threshold,
        min_area=0,
    )
    pipeline, second = train_diffusion(
        profile,
        train,
        {"mask": autoencoder},
        folder / "diffusion",
        seed=stage.seed,
        start=start,
        trained_on_photographs=stage.data_given,
        on_log=LossPlot(folder / "diffusion" / "metrics.jsonl"),
    )
    val = validation_split(profile, root, seed=stage.seed, max_images=settings.num_images)
    scores, predictions = evaluate_instances(
        pipeline.to(stage.device),
        val,
        seed=stage.seed,
        num_inference_steps=settings.num_inference_steps,
        batch_size=settings.batch_size,
        cleaning=Cleaning(settings.threshold, settings.min_area),
        tile_size=settings.tile_size,
    )
    predictions.save_coco(folder / "predictions.json", folder / "predictions", image_ids=val.image_ids)
    return {
        **scores,
        "reconstruction": {**ceiling["class_agnostic"]["All"], "miou": ceiling["miou"]},
        "training": {"autoencoder": first and asdict(first), "diffusion": asdict(second)},
        "images": {"train": len(train), "val": len(val)},
        "num_ids": profile.data.num_ids,
        "min_area": settings.min_area,
        "tile_size": settings.tile_size,
        "provenance": provenance(profile, train, val, name=root.name if stage.data_given else None),
        "notes": val.notes,
        "weights": "trained by this notebook" if name is None else f"trained by this notebook, begun from {name}",
    }


def central_crop(
    image: UInt8[np.ndarray, "height width 3"], ids: Integer[np.ndarray, "height width"], *, side: int, num_ids: int
) -> tuple[UInt8[np.ndarray, "top left 3"], Integer[np.ndarray, "top left"]]:
    """The middle of an image and of its id map, at most `side` pixels a side, with ids that a model of crops knows.

    The ids of an image that was predicted in tiles have no bound; here they are numbered anew by falling area, and what
    is beyond `num_ids` - 1 is void.
    """
    top, left = (max(0, edge) for edge in crop_corner(ids.shape, side))
    window = slice(top, top + side), slice(left, left + side)
    ranked = ranked_ids(ids[window])
    return image[window], np.where(ranked < num_ids, ranked, 0)


def _start(name: str, profile: Profile) -> LDMSegPipeline:
    """The pipeline to go on from; a relative folder is one of the checkout, wherever the notebook runs."""
    folder = paths.ROOT / name
    start = LDMSegPipeline.from_pretrained(folder if folder.is_dir() else name)
    theirs = start.autoencoder.config.num_ids
    if theirs != profile.data.num_ids:
        raise InputError(
            f"the model {name} of own_dataset.start has {theirs} ids, and own_dataset.num_ids is "
            f"{profile.data.num_ids}; set that to {theirs}"
        )
    return start


def _require_ids(dataset: PanopticDataset, num_ids: int) -> None:
    if dataset.num_classes >= num_ids:
        raise InputError(
            f"{dataset.files.annotations} has {dataset.num_classes} classes, which do not fit into {num_ids} ids of "
            f"which 0 is void; set own_dataset.num_ids to {dataset.num_classes + 1} or more"
        )


def provenance(profile: Profile, train: PanopticDataset, val: PanopticDataset, *, name: str | None) -> list[str]:
    """What the caption of a table says of these settings, instead of what it says of the main sections."""
    own, side = profile.own_dataset, profile.data.image_size
    pieces = f"crops of {own.crop_size} px seen at {side} px" if own.crop_size else f"whole images seen at {side} px"
    batches = {part: getattr(profile, part).training.batch_size for part in ("autoencoder", "diffusion")}
    return [
        f"Data: {name or 'embedded scenes, converted from masks'}, {len(train)} images for training, {len(val)} held "
        f"out; {pieces}; num_ids = {own.num_ids}, min_area = {own.min_area} px",
        f"begun from the model {own.start}, whose autoencoder is kept"
        if own.start
        else f"autoencoder: {own.autoencoder_steps} steps of batch {batches['autoencoder']}",
        f"diffusion: {own.diffusion_steps} steps of batch {batches['diffusion']}, {own.num_inference_steps} denoising "
        "steps",
    ]
