"""Notebook 08's computation: a trained model learns further tasks, beside models that learned fewer (supplement A).

study = MultitaskStudy(profile, data_root, folder, start=pipeline, seed=0)
study.train_depth_autoencoder()
study.train("three tasks")
study.judge("three tasks")
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.errors import InputError
from ...core.files import replacing
from ...core.profiles import Profile
from ...core.randomness import derive_seed
from ...data.panoptic import PanopticDataset, collate
from ...data.splits import training_split, validation_split
from ...diffusion.tasks import TASKS, Task
from ...evaluation.depth_metrics import DepthMetrics
from ...models.autoencoder import MaskAutoencoder
from ...pipeline.ldmseg import LDMSegPipeline
from ...pipeline.output import PanopticOutput
from ...training.depth_autoencoder import train_depth_autoencoder
from ...training.diffusion import train_diffusion
from ...training.multitask import added_task_profile, multitask_profile, samples_per_task
from ..segmentation import Cleaning
from .scores import Scores, add_task, evaluate_tasks

OnLog = Callable[[Mapping[str, float]], None]


class MultitaskStudy:
    """Models that go on from one trained pipeline, each with its own tasks, judged on the same images and noise.

    Args:
        profile: its `multitask` section says what is trained and how much.
        root: the data folder; it has depth.
        folder: gets a folder for every model.
        start: the trained pipeline.
        seed: of everything drawn.
        device: where pipelines are judged.
        trained_on_photographs: what the new pipelines say of themselves.

    Raises:
        DatasetError: the data folder has no depth; the message says which command makes it.
    """

    def __init__(
        self,
        profile: Profile,
        root: str | Path,
        folder: str | Path,
        *,
        start: LDMSegPipeline,
        seed: int = 0,
        device: str = "cpu",
        trained_on_photographs: bool = False,
    ) -> None:
        self.profile, self.folder, self.seed, self.device = profile, Path(folder), seed, device
        self.train_set = training_split(profile, root, seed=seed, depth=True)
        self.val_set = validation_split(profile, root, seed=seed, depth=True, max_images=profile.multitask.num_images)
        self.trained_on_photographs = trained_on_photographs
        self.start = start
        self.autoencoders: dict[str, MaskAutoencoder] = {"mask": start.autoencoder}
        self._pipelines: dict[str, LDMSegPipeline] = {}
        self._profiles: dict[str, list[Profile]] = {}

    @property
    def notes(self) -> list[str]:
        """What tables of this study have to say beside the data set's own notes: its budget."""
        settings = self.profile.multitask
        depth, training = settings.depth_autoencoder, settings.training
        budget = (
            f"Multi-task: {training.steps} further steps of batch {training.batch_size}, depth autoencoder"
            f" {depth.steps} steps of batch {depth.batch_size}; judged on {len(self.val_set)} held-out images with"
            f" {settings.num_inference_steps} denoising steps."
        )
        return [*self.val_set.notes, budget]

    def folder_of(self, name: str) -> Path:
        """Where the model `name` is kept: its pipelines, checkpoints and metrics.jsonl."""
        return self.folder / name.replace(" + ", "_").replace(" ", "_")

    def take(self, name: str) -> None:
        """Let the starting pipeline itself be the model `name`."""
        self._keep(name, self.start, [self.profile])

    def train_depth_autoencoder(self, on_log: OnLog | None = None) -> dict[str, Any]:
        """Train the depth autoencoder; returns its training record and what its reconstructions score."""
        autoencoder, record = train_depth_autoencoder(
            self.profile, self.train_set, self.folder / "depth_autoencoder", seed=self.seed, on_log=on_log
        )
        self.autoencoders["depth"] = autoencoder
        return {
            "training": asdict(record),
            "parameters": sum(p.numel() for p in autoencoder.parameters()),
            "latent_scale": autoencoder.config.latent_scale,
            "latent_std": autoencoder.config.latent_std,
            "reconstruction": evaluate_depth_reconstruction(autoencoder.to(self.device), self.val_set),
        }

    def train(self, name: str, tasks: Sequence[str] | None = None, on_log: OnLog | None = None) -> dict[str, Any]:
        """Train the model `name` on the section's tasks, or on some of them; returns its training record."""
        return self._train(name, multitask_profile(self.profile, tasks), self.start, [self.profile], on_log)

    def add(
        self,
        task: Task,
        *,
        score: Callable[[PanopticDataset], Scores],
        to: str,
        name: str,
        on_log: OnLog | None = None,
    ) -> dict[str, Any]:
        """Teach the model `to` one more task, which makes the model `name`; returns its training record."""
        add_task(task, score=score)
        settings = added_task_profile(self.profile, task.name)
        return self._train(name, settings, self._pipelines[to], self._profiles[to], on_log)

    def judge(
        self, name: str, tasks: Sequence[str] | None = None, *, examples: int = 0
    ) -> tuple[dict[str, Any], PanopticOutput]:
        """The model's name, tasks, training samples and scores, and its maps of the first images.

        Args:
            name: of a trained model, or of one that was taken.
            tasks: some of its tasks; None: all.
            examples: how many images' maps to return.
        """
        settings, pipeline = self.profile, self._pipelines[name].to(self.device)
        tasks = list(tasks or pipeline.denoiser.config.tasks)
        scores, output = evaluate_tasks(
            pipeline,
            self.val_set,
            tasks,
            seed=self.seed,
            num_inference_steps=settings.multitask.num_inference_steps,
            batch_size=settings.evaluation.batch_size,
            cleaning=Cleaning(settings.evaluation.threshold, settings.evaluation.min_area),
            examples=examples,
        )
        samples = samples_per_task(*self._profiles[name])
        return {"name": name, "tasks": tasks, "samples": samples, "scores": scores}, output

    def _train(
        self, name: str, profile: Profile, start: LDMSegPipeline, before: list[Profile], on_log: OnLog | None
    ) -> dict[str, Any]:
        pipeline, record = train_diffusion(
            profile,
            self.train_set,
            self.autoencoders,
            self.folder_of(name),
            # another stream than that of the training that it goes on from
            seed=derive_seed(self.seed, "multitask", len(before)),
            start=start,
            trained_on_photographs=self.trained_on_photographs,
            on_log=on_log,
        )
        self._keep(name, pipeline, [*before, profile])
        return asdict(record)

    def _keep(self, name: str, pipeline: LDMSegPipeline, profiles: list[Profile]) -> None:
        pipeline.set_progress_bar_config(disable=True)
        self._pipelines[name], self._profiles[name] = pipeline, profiles


@torch.no_grad()
def evaluate_depth_reconstruction(
    autoencoder: MaskAutoencoder, dataset: PanopticDataset, *, batch_size: int = 32
) -> dict[str, Any]:
    """What the depth autoencoder alone loses, at the data set's image size: as `DepthMetrics.compute`.

    The ceiling of the depth task, since diffusion can only make what the decoder can draw.
    """
    metrics = DepthMetrics()
    for start in range(0, len(dataset), batch_size):
        batch = collate([dataset[index] for index in range(start, min(start + batch_size, len(dataset)))])
        target: Tensor = TASKS["depth"].target(batch).to(autoencoder.device)
        size = (target.shape[1], target.shape[2])
        found = autoencoder.decode(autoencoder.encode(target).mean, size)[:, 0]
        for predicted, truth in zip(found.cpu().numpy(), batch["depth"].numpy(), strict=True):
            metrics.update(predicted, truth)
    return metrics.compute()


def save_maps(path: str | Path, output: PanopticOutput) -> None:
    """Write every map of `output` into one .npz, for figures that are drawn later."""
    arrays: dict[str, Any] = {}
    for index in range(len(output)):
        maps = {
            "instance": output.instance_ids[index],
            "semantic": output.semantic[index],
            "panoptic": output.ids[index],
            "depth": output.depth[index],
            **{name: further[index] for name, further in output.maps.items()},
        }
        arrays |= {f"{index}/{name}": values for name, values in maps.items() if values is not None}
    with replacing(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def load_maps(path: str | Path) -> list[dict[str, np.ndarray]]:
    """What `save_maps` wrote: for each image its maps [height, width] by name.

    Raises:
        InputError: the file is missing or not of that kind.
    """
    found: dict[int, dict[str, np.ndarray]] = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for key, values in arrays.items():
                index, _, name = key.partition("/")
                found.setdefault(int(index), {})[name] = values
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: no maps can be read from it ({' '.join(str(error).split())[:200]})") from None
    return [found[index] for index in sorted(found)]
