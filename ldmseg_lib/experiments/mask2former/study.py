"""Notebook 09's computation: the baseline from two kinds of pretrained features, and what it is measured against.

study = Mask2FormerStudy(profile, data_root, folder, self_distilled=notebook_07 / "vit")
study.train("MAE")
study.judge("MAE")
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Dinov2Model, ViTMAEModel

from ...core.errors import InputError
from ...core.profiles import Profile
from ...data.panoptic import PanopticDataset
from ...data.splits import training_split, validation_split
from ...evaluation.panoptic_quality import PanopticQuality
from ...models.mask2former import Backbone, ViTMask2Former
from ...models.safetensors_model import load_pretrained
from ...pipeline.images import Picture
from ...pipeline.ldmseg import LDMSegPipeline
from ...pipeline.output import PanopticOutput
from ...pipeline.query_segmentation import segment_images
from ...training.mae import train_mae
from ...training.mask2former import train_mask2former
from ..segmentation import SavedPredictions
from .judging import evaluate_mask2former, seconds_per_image

OnLog = Callable[[Mapping[str, float]], None]

MAE, SELF_DISTILLED = "MAE", "self-distilled"
BACKBONES = (MAE, SELF_DISTILLED)
_TIMED_IMAGES = 8


class Mask2FormerStudy:
    """The baselines of a profile, one for each kind of pretrained features, trained and judged on the same images.

    Args:
        profile: its `mask2former` section says what is trained and how much.
        root: the data folder.
        folder: gets a folder for every model.
        self_distilled: folder of a Dinov2Model, such as notebook 07 saves; used where the profile names none.
        seed: of everything drawn.
        device: where models are judged and timed.
    """

    def __init__(
        self,
        profile: Profile,
        root: str | Path,
        folder: str | Path,
        *,
        self_distilled: str | Path | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.profile, self.folder, self.seed, self.device = profile, Path(folder), seed, device
        self.self_distilled = self_distilled
        self.train_set = training_split(profile, root, seed=seed)
        self.val_set = validation_split(profile, root, seed=seed, max_images=profile.evaluation.num_images)
        self._models: dict[str, ViTMask2Former] = {}
        self._trained: dict[str, dict[str, Any]] = {}

    @property
    def weights(self) -> str:
        """Where the baselines' weights come from, for result files."""
        named = {
            MAE: self.profile.mask2former.mae.pretrained,
            SELF_DISTILLED: self.profile.mask2former.self_distilled.pretrained,
        }
        fetched = [f"{kind} features from {source}" for kind, source in named.items() if source]
        own = [] if named[SELF_DISTILLED] else ["with notebook 07 of this run"]
        return f"trained by this notebook ({', '.join([*fetched, *own, 'beside notebook 04 of this run'])})"

    def folder_of(self, name: str) -> Path:
        """Where the model `name` is kept: model/, checkpoints, metrics.jsonl; and predictions.json with png/."""
        return self.folder / _checked(name).lower().replace("-", "_")

    def train(self, name: str, *, on_log: OnLog | None = None) -> None:
        """Train the baseline from the features `name`, "MAE" or "self-distilled"; a finished training is loaded.

        Features pretrained by masked autoencoding are made first, where the profile names no weights.

        Raises:
            InputError: another name, or features that are nowhere.
        """
        backbone, input_size, pretraining = self._backbone(name)
        model, record = train_mask2former(
            self.profile,
            self.train_set,
            backbone,
            self.folder_of(name),
            input_size=input_size,
            seed=self.seed,
            on_log=on_log,
        )
        self._models[name] = model.to(self.device)
        self._trained[name] = {"training": asdict(record), "pretraining": pretraining}

    def judge(self, name: str, *, repeats: int = 5) -> dict[str, Any]:
        """Scores, parameters and seconds of the trained model `name`; its predictions go to disk in COCO's format."""
        if _checked(name) not in self._models:
            raise InputError(f"the baseline from {name} features is not trained; call train({name!r}) first")
        model = self._models[name]
        folder = self.folder_of(name)
        saved = SavedPredictions(folder / "predictions.json", folder / "png")
        scores, _ = evaluate_mask2former(
            model, self.val_set, batch_size=self.profile.evaluation.batch_size, on_output=saved.add
        )
        saved.finish()
        return {
            "name": name,
            **scores,
            **self._trained[name],
            "parameters": sum(p.numel() for p in model.parameters()),
            "seconds_per_image": seconds_per_image(
                lambda images: segment_images(model, images), self._timed(), device=self.device, repeats=repeats
            ),
        }

    def measure_pipeline(self, pipeline: LDMSegPipeline, *, repeats: int = 2) -> dict[str, Any]:
        """Parameters of LDMSeg, and its seconds on the same images and device, with the profile's sampling."""
        steps = self.profile.evaluation.num_inference_steps
        pipeline.set_progress_bar_config(disable=True)

        def segment(images: list[Picture]) -> PanopticOutput:
            return pipeline(images, num_inference_steps=steps, generator=torch.Generator().manual_seed(self.seed))

        seconds = seconds_per_image(segment, self._timed(), device=pipeline.device, repeats=repeats)
        networks = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
        return {
            "num_inference_steps": steps,
            "parameters": sum(p.numel() for network in networks for p in network.parameters()),
            "seconds_per_image": seconds,
        }

    def _timed(self) -> list[Picture]:
        return [self.val_set.ground_truth(index).image for index in range(min(_TIMED_IMAGES, len(self.val_set)))]

    def _backbone(self, name: str) -> tuple[Backbone, int, dict[str, Any] | None]:
        """A pretrained ViT, the size that it sees, and the record of its pretraining if it was pretrained here."""
        settings = self.profile.mask2former
        if _checked(name) == MAE:
            if settings.mae.pretrained is not None:
                vit = load_pretrained(ViTMAEModel, settings.mae.pretrained, key="mask2former.mae.pretrained")
                return vit, settings.mae.input_size, None
            vit, record = train_mae(self.profile, self.train_set, self.folder_of(name) / "pretraining", seed=self.seed)
            return vit, settings.mae.input_size, asdict(record)
        source = settings.self_distilled.pretrained or self.self_distilled
        if source is None:
            raise InputError(
                "there is no self-distilled ViT; run notebook 07, or set mask2former.self_distilled.pretrained to the"
                " folder of a Dinov2Model"
            )
        vit = load_pretrained(Dinov2Model, str(source), key="mask2former.self_distilled.pretrained")
        return vit, settings.self_distilled.input_size, None


def _checked(name: str) -> str:
    if name not in BACKBONES:
        raise InputError(f"features are {' or '.join(map(repr, BACKBONES))}, not {name!r}")
    return name


def most_different(dataset: PanopticDataset, first: PanopticOutput, second: PanopticOutput, *, count: int) -> list[int]:
    """Images on which two models differ most in panoptic PQ: as many where the first is ahead as where the second is.

    Args:
        dataset: the images, in the order of both predictions.
        count: of images; an odd one gives the second model one more.

    Returns:
        Their indices, those where the first is ahead most at the beginning, the second at the end.
    """
    gains = []
    for index in range(len(dataset)):
        truth, quality = dataset.ground_truth(index), []
        for output in (first, second):
            metric = PanopticQuality(dataset.categories)
            metric.update(truth.ids, truth.segments, output.ids[index], output.segments[index])
            quality.append(metric.compute()["All"]["pq"] or 0.0)
        gains.append(quality[0] - quality[1])
    order = np.argsort(np.negative(gains), kind="stable").tolist()
    ahead = min(count, len(order)) // 2
    return [*order[:ahead], *order[len(order) - (min(count, len(order)) - ahead) :]]


def load_predictions(folder: str | Path) -> PanopticOutput:
    """Predictions that a notebook saved: `folder`/predictions.json and `folder`/png."""
    return PanopticOutput.load_coco(Path(folder) / "predictions.json", Path(folder) / "png")


def segment_names(segments: Sequence[Mapping[str, Any]], categories: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """The category's name of each segment id, for pictures."""
    names = {category["id"]: category["name"] for category in categories}
    return {segment["id"]: names[segment["category_id"]] for segment in segments}
