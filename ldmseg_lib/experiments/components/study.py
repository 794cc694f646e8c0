"""Notebook 07's computation: run each training of `rows` once and evaluate all models with the same noise.

Trainings and scores are cached by key in `<run folder>/cache`, so that a crash or a changed table repeats nothing.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL

from ...core.files import replacing
from ...core.profiles import Profile
from ...core.sources import computing_sources, effective_settings
from ...data.panoptic import PanopticDataset
from ...data.splits import training_split, validation_split
from ...models.autoencoder import MaskAutoencoder
from ...models.feature_cache import FeatureCache, cache_that_pays
from ...models.image_encoders import build_image_encoder
from ...models.safetensors_model import load_pretrained
from ...pipeline.ldmseg import LDMSegPipeline
from ...training.autoencoder import train_autoencoder
from ...training.diffusion import train_diffusion
from ...training.image_autoencoder import train_image_autoencoder
from ...training.self_distillation import train_self_distilled_vit
from ..cache import CachedResult, cached_result
from ..inpainting.study import Drop, evaluate_inpainting
from ..segmentation import Cleaning
from .feature_probe import feature_pictures, probe_features
from .rows import TABLE_S3, ComponentRow, EncoderName, Variant, component_rows, variant_profile
from .size_scores import score_reconstruction, score_segmentation

OnLog = Callable[[Mapping[str, float]], None]

# labels of an encoder trained by the study, and of a pretrained one
TRAINED = {
    "image_autoencoder": "small AutoencoderKL, reconstructs the images",
    "vit": "small ViT, self-distilled on the images",
}
PRETRAINED = {"image_autoencoder": "AutoencoderKL {}", "vit": "Dinov2Model {}"}

# whose sources are part of a cached result's key
_MODULES = (
    "training.image_autoencoder",
    "training.self_distillation",
    "training.autoencoder",
    "training.diffusion",
    "experiments.components.size_scores",
    "experiments.inpainting.study",
)


class ComponentStudy:
    """All trainings and scores of notebook 07.

    Args:
        profile: its section `components` says what is trained and how much.
        root: the data folder.
        cache: folder of the cached trainings and scores.
        data_key: identifies the data folder.
        seed: of all random numbers.
        device: where pipelines are evaluated.
        trained_on_photographs: stored in the pipelines.
        on_log: returns, for a training's title, a callback for its logged values.
    """

    def __init__(
        self,
        profile: Profile,
        root: str | Path,
        cache: str | Path,
        *,
        data_key: str,
        seed: int = 0,
        device: str = "cpu",
        trained_on_photographs: bool = False,
        on_log: Callable[[str], OnLog | None] | None = None,
    ) -> None:
        self.profile, self.settings, self.root, self.cache = profile, profile.components, root, Path(cache)
        self.data_key, self.seed, self.device = data_key, seed, device
        self.trained_on_photographs = trained_on_photographs
        self._on_log = on_log or (lambda title: None)
        self._sources = {module: computing_sources([module]) for module in _MODULES}
        self._features: dict[str, FeatureCache | None] = {}
        self._plain = variant_profile(profile, Variant(), encoder="")
        self.val_set = validation_split(self._plain, root, seed=seed, max_images=self.settings.num_images)
        self.cleaning = Cleaning(profile.evaluation.threshold, profile.components.min_area)
        self.rows: list[ComponentRow] = component_rows(self.settings)

    def _cached(
        self, name: str, module: str, ingredients: Mapping[str, Any], work: Callable[[Path], Any]
    ) -> CachedResult:
        splits = asdict(self._plain.data) | {"workers": None}
        content = {"seed": self.seed, "data": self.data_key, "splits": splits, **ingredients}
        return cached_result(self.cache, name, ingredients=content, sources=self._sources[module], work=work)

    def _training_split(self, profile: Profile) -> PanopticDataset:
        return training_split(profile, self.root, seed=self.seed)

    # image encoders

    def encoder(self, name: EncoderName) -> CachedResult | None:
        """The training of the image encoder `name`; None where the profile names a checkpoint."""
        settings = getattr(self.settings, name)
        if settings.pretrained is not None:
            return None
        train: Callable[..., Any]
        if name == "vit":
            train, module = train_self_distilled_vit, "training.self_distillation"
        else:
            train, module = train_image_autoencoder, "training.image_autoencoder"

        def work(folder: Path) -> dict[str, Any]:
            split, workers = self._training_split(self._plain), self.profile.data.workers
            return asdict(train(settings, split, folder, self.seed, workers=workers, on_log=self._on_log(name))[1])

        return self._cached(name, module, {"settings": effective_settings(asdict(settings))}, work)

    def encoder_source(self, name: EncoderName) -> str:
        """Folder or hub name of the image encoder's weights."""
        cached = self.encoder(name)
        if cached is None:
            return getattr(self.settings, name).pretrained
        return str(cached.folder / "vit" if name == "vit" else cached.folder)

    def describe_encoder(self, name: EncoderName) -> dict[str, Any]:
        """Label, origin, size and training of an image encoder, for the result."""
        cached, source = self.encoder(name), getattr(self.settings, name).pretrained
        built = build_image_encoder(variant_profile(self.profile, Variant(name), encoder=self.encoder_source(name)))
        return {
            "label": TRAINED[name] if cached else PRETRAINED[name].format(source),
            "weights": "trained by this notebook" if cached else source,
            "out_channels": built.out_channels,
            "parameters": sum(p.numel() for p in built.parameters()),
            "training": cached.record if cached else None,
            "probe": probe_features(
                built.eval().to(self.device),
                self._training_split(self._plain),
                self.val_set,
                cells=self.settings.image_size // 2 ** (len(self.settings.autoencoder.channels) - 1),
            ),
        }

    def save_feature_pictures(self, file: str | Path, *, count: int = 4) -> None:
        """Write pictures of both image encoders' features on the first held-out images (`feature_pictures`)."""
        vae = load_pretrained(
            AutoencoderKL, self.encoder_source("image_autoencoder"), subfolder="vae", key="image_autoencoder.pretrained"
        )
        vit = build_image_encoder(variant_profile(self.profile, Variant("vit"), encoder=self.encoder_source("vit")))
        images = torch.stack([self.val_set[index]["image"] for index in range(min(count, len(self.val_set)))])
        with replacing(Path(file)) as temporary, open(temporary, "wb") as written:
            pictures: dict[str, Any] = feature_pictures(vae.eval(), vit.eval(), images)
            np.savez(written, **pictures)

    # mask autoencoders and diffusion models

    def autoencoder(self, *, other_latents: bool = False) -> tuple[MaskAutoencoder, CachedResult]:
        """The mask autoencoder, of the section's own or of the other latents."""
        changed = variant_profile(self.profile, Variant(other_latents=other_latents), encoder="")

        def work(folder: Path) -> dict[str, Any]:
            split, on_log = self._training_split(changed), self._on_log("autoencoder")
            return asdict(train_autoencoder(changed, split, folder, seed=self.seed, on_log=on_log)[1])

        settings = {"settings": effective_settings(asdict(changed.autoencoder))}
        cached = self._cached("autoencoder", "training.autoencoder", settings, work)
        return MaskAutoencoder.from_pretrained(cached.folder / "autoencoder").eval(), cached

    def train(self, variant: Variant) -> CachedResult:
        """The diffusion model of `variant`: its folder holds pipeline/ (averaged) and pipeline_last/."""
        encoder, source = self.encoder(variant.encoder), self.encoder_source(variant.encoder)
        autoencoder, cached_autoencoder = self.autoencoder(other_latents=variant.other_latents)
        changed = variant_profile(self.profile, variant, encoder=source)

        def work(folder: Path) -> dict[str, Any]:
            dataset = self._training_split(changed)
            _, record = train_diffusion(
                changed,
                dataset,
                {"mask": autoencoder},
                folder,
                seed=self.seed,
                features=self._feature_cache(variant.encoder, changed, dataset),
                trained_on_photographs=self.trained_on_photographs,
                on_log=self._on_log("diffusion"),
            )
            return asdict(record)

        ingredients = {
            # the path of an encoder trained by this run is not part of its identity
            "image_encoder": [encoder.key if encoder else source, asdict(changed.image_encoder) | {"pretrained": None}],
            "autoencoder": cached_autoencoder.key,
            "id_order": variant.id_order,
            "denoiser": asdict(changed.denoiser),
            "diffusion": effective_settings(asdict(changed.diffusion)),
        }
        return self._cached("diffusion", "training.diffusion", ingredients, work)

    def _feature_cache(self, name: EncoderName, changed: Profile, dataset: PanopticDataset) -> FeatureCache | None:
        """One cache for all trainings with this image encoder: together they visit each image many times."""
        if name not in self._features:
            training = changed.diffusion.training
            trainings = len({str(row.variant) for row in self.rows}) if name == "vit" else 1
            visits = trainings * training.steps * training.batch_size
            self._features[name] = cache_that_pays(build_image_encoder(changed), dataset, visits=visits)
        return self._features[name]

    def _pipeline(self, training: CachedResult, *, averaged: bool = True) -> LDMSegPipeline:
        pipeline = LDMSegPipeline.from_pretrained(training.folder / ("pipeline" if averaged else "pipeline_last"))
        pipeline.set_progress_bar_config(disable=True)
        # Table S3 is of the plain samplers
        pipeline.register_to_config(round_estimates=False)
        return pipeline.to(self.device)

    # scores

    def scores(
        self, variant: Variant, *, sampler: str = "ddim", steps: int | None = None, averaged: bool = True
    ) -> dict[str, Any]:
        """Scores of a variant's model (see `score_segmentation`), with how they were made."""
        training = self.train(variant)
        steps = steps or self.settings.num_inference_steps
        sampling: dict[str, Any] = {"sampler": sampler, "num_inference_steps": steps}
        sampling |= {"cleaning": self.cleaning, "area_edges": self.settings.area_edges}

        def work(_folder: Path) -> dict[str, Any]:
            pipeline, batch_size = self._pipeline(training, averaged=averaged), self.profile.evaluation.batch_size
            return score_segmentation(pipeline, self.val_set, seed=self.seed, batch_size=batch_size, **sampling)

        ingredients = {"training": training.key, "averaged": averaged, "images": len(self.val_set)}
        ingredients |= sampling | {"cleaning": asdict(self.cleaning)}
        cached = self._cached("scores", "experiments.components.size_scores", ingredients, work)
        made = {"training": training.folder.name, "sampler": sampler, "steps": steps}
        return made | {"averaged": averaged, "loss": training.record["final_loss"], "scores": cached.record}

    def inpainting(self, variant: Variant) -> list[dict[str, Any]]:
        """Scores of a variant's model on partly known segmentations (see `evaluate_inpainting`)."""
        training, settings = self.train(variant), self.settings
        drops = [Drop(block, rate) for block in settings.inpainting_blocks for rate in settings.inpainting_rates]

        def work(_folder: Path) -> dict[str, Any]:
            images = validation_split(self._plain, self.root, seed=self.seed, max_images=settings.inpainting_images)
            conditions = evaluate_inpainting(
                self._pipeline(training),
                images,
                seed=self.seed,
                drops=drops,
                num_inference_steps=settings.inpainting_steps,
                sampler="ddpm",
                resamplings=1,
                batch_size=self.profile.evaluation.batch_size,
                threshold=self.cleaning.threshold,
                min_area=self.cleaning.min_area,
            )
            return {"conditions": conditions}

        ingredients = {
            "training": training.key,
            "drops": [asdict(drop) for drop in drops],
            "images": settings.inpainting_images,
            "steps": settings.inpainting_steps,
            "cleaning": asdict(self.cleaning),
        }
        return self._cached("inpainting", "experiments.inpainting.study", ingredients, work).record["conditions"]

    def reconstruction(self, *, other_latents: bool) -> dict[str, Any]:
        """Scores of an autoencoder's reconstructions (see `score_reconstruction`), and its downsampling factor."""
        autoencoder, training = self.autoencoder(other_latents=other_latents)
        scores = score_reconstruction(
            autoencoder.to(self.device), self.val_set, cleaning=self.cleaning, area_edges=self.settings.area_edges
        )
        return {"factor": autoencoder.factor, "training": training.record, "reconstruction": scores}

    # everything

    def run(self) -> dict[str, Any]:
        """Train and evaluate everything.

        Returns:
            "encoders" by name; "table_s3", "rows" and "id_orders": lists of `scores` with their row's name;
            "inpainting": by order of ids; "latents": the two resolutions; "images", "weights", "notes".
        """
        encoders = {name: self.describe_encoder(name) for name in ("image_autoencoder", "vit")}
        table = [
            {"encoder": name, **self.scores(Variant(name), sampler=sampler, averaged=averaged)}
            for name, sampler, averaged in TABLE_S3
        ]
        rows = [{"group": row.group, "name": row.name, **self.scores(row.variant)} for row in self.rows]
        orders = {"random": Variant(), "by position": Variant(id_order="position")}
        latents = [
            self.reconstruction(other_latents=other) | {"prediction": self.scores(Variant(other_latents=other))}
            for other in (False, True)
        ]
        return {
            "encoders": encoders,
            "table_s3": table,
            "rows": rows,
            "id_orders": [
                {"order": name, **self.scores(variant, steps=steps)}
                for name, variant in orders.items()
                for steps in self.settings.step_counts
            ],
            "inpainting": {name: self.inpainting(variant) for name, variant in orders.items()},
            "latents": latents,
            "images": len(self.val_set),
            "image_size": self.settings.image_size,
            "weights": "trained by this notebook",
            "notes": [self._budget(), *self.val_set.notes],
        }

    def _budget(self) -> str:
        diffusion, autoencoder = self.settings.diffusion.training, self.settings.autoencoder.training
        trainings = {"diffusion model": diffusion, "mask autoencoder": autoencoder}
        steps = " and ".join(
            f"each {name} {training.steps} steps of batch {training.batch_size}" for name, training in trainings.items()
        )
        return (
            f"Images and masks at {self.settings.image_size} px, {steps}; evaluated on the first {len(self.val_set)}"
            " held-out images at their own size."
        )

    def export_vit(self, folder: str | Path) -> Path | None:
        """Copy the ViT trained here to `folder`, as transformers saves a Dinov2Model; None for a pretrained one."""
        cached = self.encoder("vit")
        if cached is None:
            return None
        shutil.copytree(cached.folder / "vit", folder, dirs_exist_ok=True)
        return Path(folder)
