"""What `python -m ldmseg_lib.training` can train: one entry each, with the notebook that goes on from its result.

A training leaves its checkpoints where the notebook's own training would; the notebook then finds it finished, and only
measures. A new entry is a function of a TrainingRun and a line in TRAINABLES.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..core.profiles import Profile
from ..core.sections import TrainingProfile
from ..data.splits import training_split
from ..models.autoencoder import MaskAutoencoder, load_autoencoder
from ..pipeline.ldmseg import LDMSegPipeline
from ..training.autoencoder import train_autoencoder
from ..training.consistency import train_consistency
from ..training.depth_autoencoder import train_depth_autoencoder
from ..training.diffusion import train_diffusion
from .mask2former.study import BACKBONES, Mask2FormerStudy
from .multitask.study import MultitaskStudy


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """Where a training works: the profile, the seed and the run folder, as a notebook has them."""

    profile: Profile
    seed: int
    run_dir: Path
    data_root: Path
    data_given: bool  # not the embedded data set

    def stage(self, name: str) -> Path:
        """The folder of a notebook's stage."""
        return self.run_dir / name

    def autoencoder(self) -> MaskAutoencoder:
        """That of notebook 2."""
        return load_autoencoder(self.profile, self.stage("02_autoencoder") / "autoencoder")

    def pipeline(self) -> LDMSegPipeline:
        """That of notebook 4."""
        return LDMSegPipeline.from_pretrained(self.stage("04_diffusion") / "pipeline")


@dataclass(frozen=True, kw_only=True)
class Trainable:
    """One thing that can be trained.

    Attributes:
        stage: the notebook's name.
        folder: below the stage's folder, of checkpoints/ and metrics.jsonl.
        settings: the training's section of a profile.
        work: does it, on every process that takes part.
    """

    stage: str
    folder: str = "."
    settings: Callable[[Profile], TrainingProfile]
    work: Callable[[TrainingRun, Path], object]


def _autoencoder(run: TrainingRun, folder: Path) -> None:
    train_autoencoder(run.profile, training_split(run.profile, run.data_root, seed=run.seed), folder, seed=run.seed)


def _diffusion(run: TrainingRun, folder: Path) -> None:
    dataset = training_split(run.profile, run.data_root, seed=run.seed)
    autoencoders = {"mask": run.autoencoder()}
    train_diffusion(run.profile, dataset, autoencoders, folder, seed=run.seed, trained_on_photographs=run.data_given)


def _depth_autoencoder(run: TrainingRun, folder: Path) -> None:
    dataset = training_split(run.profile, run.data_root, seed=run.seed, depth=True)
    train_depth_autoencoder(run.profile, dataset, folder, seed=run.seed)


def _multitask(run: TrainingRun, folder: Path) -> None:
    study = MultitaskStudy(
        run.profile,
        run.data_root,
        folder.parent,
        start=run.pipeline(),
        seed=run.seed,
        trained_on_photographs=run.data_given,
    )
    study.train_depth_autoencoder()
    study.train(folder.name.replace("_", " "))


def _mask2former(run: TrainingRun, folder: Path, *, backbone: str) -> None:
    study = Mask2FormerStudy(
        run.profile,
        run.data_root,
        folder.parent,
        self_distilled=run.stage("07_components") / "vit",
        seed=run.seed,
    )
    study.train(backbone)


def _consistency(run: TrainingRun, folder: Path) -> None:
    dataset = training_split(run.profile, run.data_root, seed=run.seed)
    train_consistency(run.profile, dataset, run.pipeline(), folder, seed=run.seed)


TRAINABLES = {
    "autoencoder": Trainable(
        stage="02_autoencoder", settings=lambda profile: profile.autoencoder.training, work=_autoencoder
    ),
    "diffusion": Trainable(stage="04_diffusion", settings=lambda profile: profile.diffusion.training, work=_diffusion),
    "depth_autoencoder": Trainable(
        stage="08_multitask",
        folder="depth_autoencoder",
        settings=lambda profile: profile.multitask.depth_autoencoder,
        work=_depth_autoencoder,
    ),
    "multitask": Trainable(
        stage="08_multitask",
        folder="all_tasks",
        settings=lambda profile: profile.multitask.training,
        work=_multitask,
    ),
    **{
        f"mask2former_{backbone.lower().replace('-', '_')}": Trainable(
            stage="09_mask2former_baseline",
            folder=backbone.lower().replace("-", "_"),
            settings=lambda profile: profile.mask2former.training,
            work=functools.partial(_mask2former, backbone=backbone),
        )
        for backbone in BACKBONES
    },
    "consistency": Trainable(
        stage="12_few_steps", settings=lambda profile: profile.consistency.training, work=_consistency
    ),
}
