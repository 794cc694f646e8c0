"""Does everything fit together on COCO itself? Overfit 16 real photographs, and ask for class-agnostic PQ above 80.

    python benchmarks/overfit_photographs.py ../shared/data/coco_permissive runs/benchmarks/overfit

The `paper` profile's code path (random ids as bits, void, self-conditioning, instance and semantic tasks, EMA, DDPM
sampling, min_area 0) at reduced size: images of 64 px, 16 ids, small networks, nothing pretrained, and the loss of
`demo`: z_0 itself is predicted, all noise levels weigh the same. The paper's loss all but ignores the noisiest levels,
at which the image alone decides, and with it the same networks had a class-agnostic PQ of 34 after 2,000 steps. Chosen
are the first 16 training images whose segments are all things of at least 1 % of the image, none a crowd, as far as
their categories fit into the ids. Only things are labelled in that folder and void forgives, so this proves a path, not
a quality. An interrupted run goes on.
"""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from ldmseg_lib.data.splits import training_split, validation_split
from ldmseg_lib.errors import InputError, one_line_errors
from ldmseg_lib.evaluation.reconstruction import evaluate_reconstruction
from ldmseg_lib.evaluation.segmentation import Cleaning, evaluate_segmentation
from ldmseg_lib.files import read_json, write_json
from ldmseg_lib.machine import device_name, package_versions
from ldmseg_lib.profiles import Profile
from ldmseg_lib.training.autoencoder import train_autoencoder
from ldmseg_lib.training.diffusion import train_diffusion

GOAL = 80.0
AUTOENCODER_STEPS, DIFFUSION_STEPS = 1500, 3000
RESULT = Path(__file__).parent / "results" / "overfit_photographs.json"
REDUCED: dict[str, Any] = {
    "data.image_size": 64,
    "data.num_ids": 16,
    "data.workers": 0,
    "autoencoder.channels": [16, 48, 128],
    "autoencoder.num_upscalers": 1,
    "autoencoder.latent_scale": None,
    "autoencoder.num_points": 768,
    "autoencoder.training.precision": "fp32",
    "autoencoder.training.learning_rate": 2e-3,
    "autoencoder.training.final_learning_rate": 1e-5,
    "autoencoder.training.warmup_steps": 50,
    "denoiser.pretrained": None,
    "denoiser.channels": [64, 96, 128],
    "denoiser.attention": [False, True, True],
    "denoiser.layers_per_block": 1,
    "denoiser.head_dim": 32,
    "denoiser.task_dim": 128,
    "denoiser.train_time_embedding": True,
    "image_encoder.kind": "small",
    "image_encoder.pretrained": None,
    "image_encoder.out_channels": 32,
    "image_encoder.channels": [32, 64],
    "image_encoder.input_size": None,
    "image_encoder.layer": None,
    "image_encoder.trainable": True,
    "diffusion.prediction_type": "sample",
    "diffusion.loss_weight": "x0",
    "diffusion.training.precision": "fp32",
    "diffusion.training.batch_size": 16,
    "diffusion.training.learning_rate": 1e-3,
    "diffusion.training.warmup_steps": 50,
    "diffusion.training.gradient_checkpointing": False,
    "diffusion.training.ema_decay": 0.99,
    "evaluation.min_area": 0,
}


def choose_images(source: Path, target: Path, count: int) -> Path:
    """A data folder whose train and val splits are the same `count` photographs of `source`; these are linked.

    Its categories are those that the photographs show, one fewer than there are ids.
    """
    document = read_json(source / "panoptic_train.json")
    sizes = {image["id"]: image["height"] * image["width"] for image in document["images"]}
    suitable: list[dict[str, Any]] = []
    shown: set[int] = set()
    for annotation in document["annotations"]:
        segments = annotation["segments_info"]
        least = sizes[annotation["image_id"]] / 100
        together = shown | {segment["category_id"] for segment in segments}
        large = all(not segment["iscrowd"] and segment["area"] >= least for segment in segments)
        if segments and large and len(together) < REDUCED["data.num_ids"] and len(suitable) < count:
            suitable.append(annotation)
            shown = together
    if len(suitable) < count:
        raise InputError(
            f"{source}: {len(suitable)} photographs have large segments alone and categories that fit into "
            f"{REDUCED['data.num_ids']} ids, and {count} are asked for"
        )
    chosen = {annotation["image_id"] for annotation in suitable}
    images = [image for image in document["images"] if image["id"] in chosen]
    categories = [category for category in document["categories"] if category["id"] in shown]
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for folder in ("images", "panoptic"):
        os.symlink((source / folder).resolve(), target / folder)
    for split in ("train", "val"):
        chosen_part = {"images": images, "annotations": suitable, "categories": categories}
        write_json(target / f"panoptic_{split}.json", document | chosen_part)
    return target


def overfit(profile: Profile, data: Path, folder: Path, *, seed: int = 0) -> dict[str, Any]:
    """Train both networks on `data`/train and judge them on the same images: PQ values in percent."""
    train, val = training_split(profile, data, seed=seed), validation_split(profile, data, seed=seed)
    settings, start = profile.evaluation, time.perf_counter()
    autoencoder, _ = train_autoencoder(profile, train, folder / "autoencoder", seed=seed)
    ceiling = evaluate_reconstruction(autoencoder, val, threshold=settings.threshold, min_area=0)
    pipeline, _ = train_diffusion(
        profile, train, {"mask": autoencoder}, folder / "diffusion", seed=seed, trained_on_photographs=True
    )
    seconds = time.perf_counter() - start
    scores, _ = evaluate_segmentation(
        pipeline,
        val,
        seed=seed,
        num_inference_steps=settings.num_inference_steps,
        batch_size=settings.batch_size,
        cleanings={"threshold": Cleaning(settings.threshold, 0)},
    )
    found = scores["threshold"]
    return {
        "class-agnostic PQ": round(100 * found["class_agnostic"]["All"]["pq"], 1),
        "panoptic PQ": round(100 * found["panoptic"]["All"]["pq"], 1),
        "autoencoder, class-agnostic PQ at 64 px": round(100 * ceiling["class_agnostic"]["All"]["pq"], 1),
        "goal, class-agnostic PQ": GOAL,
        "images": len(val),
        "seconds of training": round(seconds),
    }


def reduced_profile(*, autoencoder_steps: int, diffusion_steps: int, **overrides: Any) -> Profile:
    """The paper profile at reduced size."""
    steps = {"autoencoder.training.steps": autoencoder_steps, "diffusion.training.steps": diffusion_steps}
    return Profile.load("paper", REDUCED | steps | overrides)


@one_line_errors
def main() -> int:
    """Exit code 1 when the goal is missed, 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a COCO-panoptic folder, such as coco_permissive")
    parser.add_argument("folder", type=Path, help="for checkpoints")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--autoencoder-steps", type=int, default=AUTOENCODER_STEPS)
    parser.add_argument("--diffusion-steps", type=int, default=DIFFUSION_STEPS)
    options = parser.parse_args()
    profile = reduced_profile(autoencoder_steps=options.autoencoder_steps, diffusion_steps=options.diffusion_steps)
    data = choose_images(options.data, options.folder / "data", options.images)
    result = overfit(profile, data, options.folder)
    steps = {"autoencoder steps": options.autoencoder_steps, "diffusion steps": options.diffusion_steps}
    write_json(RESULT, {"device": device_name(), "packages": package_versions(), **steps, **result})
    for name, value in result.items():
        print(f"{name}: {value}")
    return 0 if result["class-agnostic PQ"] > GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
