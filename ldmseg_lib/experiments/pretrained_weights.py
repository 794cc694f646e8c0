"""Train, measure and pack the pretrained model: `python -m ldmseg_lib.experiments.pretrained_weights`.

Draws scenes of its own (the splits ready_train, ready_val and ready_test, which no other training or evaluation sees),
trains both networks, stores them in half precision with a model card, and puts them where
`LDMSegPipeline.from_pretrained("embedded")` looks. An interrupted run goes on where it stopped. With `--start` the
diffusion model goes on from a trained pipeline, whose autoencoder is kept; with `--pipeline` a pipeline that was
trained on ready_train elsewhere is measured and packed in the same way.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..core import paths
from ..core.errors import InputError
from ..core.files import read_json, write_json, write_text
from ..core.machine import device_name
from ..core.profiles import Profile
from ..data.scenes.dataset import write_dataset
from ..data.splits import training_split, validation_split
from ..pipeline.ldmseg import LDMSegPipeline
from ..pipeline.model_card import TrainingFacts, model_card
from ..pipeline.pretrained import EMBEDDED
from ..training.autoencoder import train_autoencoder
from ..training.diffusion import train_diffusion
from .segmentation import Cleaning, evaluate_segmentation

SPLITS = ("ready_train", "ready_val", "ready_test")
MAX_BYTES = 20 * 2**20
"""Of the safetensors files; a checkout should stay small."""


def make_ready_weights(
    profile: Profile,
    *,
    work: Path,
    out: Path,
    start: Path | None = None,
    trained: Path | None = None,
    seed: int = 0,
    further_steps: Sequence[int] = (),
    samples: int = 1,
    sample_steps: int | None = None,
    command: str = "python -m ldmseg_lib.experiments.pretrained_weights",
    progress: bool = True,
) -> dict[str, Any]:
    """Train (unless `trained` is a pipeline's folder), pack, measure, and put the result into `out`.

    Args:
        profile: data sizes, networks and budgets; its sections data, autoencoder, denoiser, diffusion, evaluation.
        work: folder for scenes and checkpoints; a repeated call with it goes on.
        out: folder of the packed pipeline; replaced once the new one is whole.
        start: a trained pipeline that the training goes on from.
        trained: a pipeline trained on the scenes of ready_train elsewhere.
        seed: of the training and of the samples.
        further_steps: numbers of sampling steps at which class-agnostic PQ is measured beside the profile's.
        samples: of each image, whose consensus is measured too if they are several.
        sample_steps: sampling steps of each of them; None: as the profile's evaluation.
        command: what the card says to run.
        progress: show progress bars.

    Returns:
        The scores on ready_test, in [0, 1], as the card has them.

    Raises:
        InputError: `out` is something else than a pipeline, or the weights are too large.
    """
    if out.exists() and any(out.iterdir()) and not (out / "model_index.json").is_file():
        raise InputError(f"{out} is there and is no pipeline; give another folder")
    data = profile.data
    root = write_dataset(
        work / "data",
        size=data.image_size,
        train_scenes=data.train_scenes,
        val_scenes=data.val_scenes,
        min_things=data.min_things,
        max_things=data.max_things,
        splits=SPLITS,
        progress=progress,
    )
    source = trained or _train(profile, root, work, seed, start)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ready-", dir=out.parent) as temporary:
        packed, old = Path(temporary) / "new", Path(temporary) / "old"
        LDMSegPipeline.from_pretrained(source, dtype=torch.float16).save_pretrained(packed)
        _forget_origin(packed)
        _require_small(packed)
        pipeline = LDMSegPipeline.from_pretrained(packed).to(device)
        metrics = _measure(
            profile,
            pipeline,
            root,
            seed=seed,
            further_steps=further_steps,
            samples=samples,
            sample_steps=sample_steps or profile.evaluation.num_inference_steps,
        )
        facts = _facts(profile, metrics, command, start=start)
        write_text(packed / "README.md", model_card(pipeline, facts, title="LDMSeg on the embedded scenes"))
        if out.exists():
            out.rename(old)
        packed.rename(out)
    return metrics


def _train(profile: Profile, root: Path, work: Path, seed: int, start: Path | None) -> Path:
    train = training_split(profile, root, seed=seed, split="ready_train")
    first = None if start is None else LDMSegPipeline.from_pretrained(start)
    if first is None:
        autoencoder, _ = train_autoencoder(profile, train, work / "autoencoder", seed=seed)
    else:
        autoencoder = first.autoencoder
    train_diffusion(profile, train, {"mask": autoencoder}, work / "diffusion", seed=seed, start=first)
    return work / "diffusion" / "pipeline"


def _forget_origin(folder: Path) -> None:
    """Drop what diffusers notes of the folder that the weights were loaded from: it means nothing elsewhere."""
    for path in folder.rglob("*.json"):
        settings = read_json(path)
        settings.pop("_name_or_path", None)
        write_json(path, settings)


def _require_small(folder: Path) -> None:
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    if size > MAX_BYTES:
        raise InputError(
            f"the weights take {size / 2**20:.1f} MB in half precision, and at most {MAX_BYTES / 2**20:.0f} MB are "
            "shipped; take narrower networks (denoiser.channels)"
        )


def _measure(
    profile: Profile,
    pipeline: LDMSegPipeline,
    root: Path,
    *,
    seed: int,
    further_steps: Sequence[int],
    samples: int,
    sample_steps: int,
) -> dict[str, Any]:
    settings = profile.evaluation
    scenes = validation_split(profile, root, seed=seed, split="ready_test")

    def scores(steps: int, num_samples: int = 1) -> dict[str, Any]:
        found, _ = evaluate_segmentation(
            pipeline,
            scenes,
            seed=seed,
            num_inference_steps=steps,
            num_samples=num_samples,
            batch_size=settings.batch_size,
            cleanings={"both": Cleaning(settings.threshold, settings.min_area)},
        )
        return found["both"]

    best = scores(settings.num_inference_steps)
    metrics = {
        "class-agnostic PQ": best["class_agnostic"]["All"]["pq"],
        "panoptic PQ": best["panoptic"]["All"]["pq"],
        "panoptic PQ, things": best["panoptic"]["Things"]["pq"],
        "panoptic PQ, stuff": best["panoptic"]["Stuff"]["pq"],
        "mIoU": best["miou"],
    }
    for steps in further_steps:
        metrics[f"class-agnostic PQ with {steps} steps"] = scores(steps)["class_agnostic"]["All"]["pq"]
    if samples > 1:
        voted, what = scores(sample_steps, samples), f"consensus of {samples} samples of {sample_steps} steps"
        metrics[f"class-agnostic PQ, {what}"] = voted["class_agnostic"]["All"]["pq"]
        metrics[f"panoptic PQ, {what}"] = voted["panoptic"]["All"]["pq"]
        metrics[f"mIoU, {what}"] = voted["miou"]
    return metrics


def _facts(profile: Profile, metrics: Mapping[str, Any], command: str, *, start: Path | None) -> TrainingFacts:
    data, evaluation = profile.data, profile.evaluation
    budgets = {"autoencoder": profile.autoencoder.training, "diffusion": profile.diffusion.training}
    if start is not None:
        del budgets["autoencoder"]
    begun = "random weights"
    if start is not None:
        begun = f"the pipeline {start}, trained before on other scenes, whose autoencoder is kept"
    before = "" if start is None else f"From a checkout that has {start} (notebook 04 makes such a pipeline):\n\n"
    trained = "; ".join(f"{name}: {b.steps} steps of batch {b.batch_size}" for name, b in budgets.items())
    return TrainingFacts(
        data=(
            f"{data.train_scenes} drawn scenes of the split ready_train, {data.image_size} x {data.image_size} px, "
            f"{data.min_things} to {data.max_things} things each, with exact ids and classes. The seeds of "
            "ready_train, ready_val and ready_test are disjoint from each other and from those of every other split. "
            "No photograph and no other person's weights."
        ),
        budget=f"{trained}; begun from {begun}. Stored in half precision. Measured on: {device_name()}.",
        evaluation=(
            f"On the {data.val_scenes} scenes of ready_test, from the weights as stored: "
            f"{evaluation.num_inference_steps} steps of {evaluation.sampler}"
            f"{', estimates rounded' if evaluation.round_estimates else ''}, threshold {evaluation.threshold}, "
            f"min_area {evaluation.min_area} px."
        ),
        metrics=metrics,
        recipe=f"{before}```sh\n{command}\n```",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="python -m ldmseg_lib.experiments.pretrained_weights",
        description="Train, measure and pack the pretrained model of the embedded scenes.",
    )
    parser.add_argument("--profile", default="demo", help="smoke, demo, gpu, or a YAML file (default %(default)s)")
    parser.add_argument("--overrides", help="single settings, such as diffusion.training.steps=20000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--further-steps",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="measure class-agnostic PQ with these numbers of sampling steps too, such as 50 100",
    )
    parser.add_argument(
        "--samples", type=int, default=1, help="of each image, to measure the consensus of several too (%(default)s)"
    )
    parser.add_argument(
        "--sample-steps", type=int, help="sampling steps of each of these (default: as the profile's evaluation)"
    )
    parser.add_argument("--start", type=Path, help="go on from this trained pipeline, and keep its autoencoder")
    parser.add_argument("--pipeline", type=Path, help="pack this pipeline, trained on ready_train, instead of training")
    parser.add_argument("--work", type=Path, default=paths.RUNS / "ready", help="scenes and checkpoints (%(default)s)")
    parser.add_argument(
        "--out", type=Path, default=paths.PACKAGE / "pipeline" / "weights" / EMBEDDED, help="(%(default)s)"
    )
    options = parser.parse_args(given)
    quoted = [f'"{part}"' if "=" in part or " " in part else part for part in given]
    try:
        metrics = make_ready_weights(
            Profile.load(options.profile, options.overrides),
            work=options.work,
            out=options.out,
            start=options.start,
            trained=options.pipeline,
            seed=options.seed,
            further_steps=options.further_steps,
            samples=options.samples,
            sample_steps=options.sample_steps,
            command=" ".join(["python -m ldmseg_lib.experiments.pretrained_weights", *quoted]),
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    print(f"{options.out}: " + ", ".join(f"{name} {100 * (value or 0):.1f}" for name, value in metrics.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
