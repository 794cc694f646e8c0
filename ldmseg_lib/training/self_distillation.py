"""Training a small vision transformer without labels, by self-distillation in the manner of DINO and DINOv2.

A student sees several crops of an image, with patches hidden in the large ones; a teacher, the running mean of the
student, sees the large ones whole. The student is to say of each crop what the teacher says of the others (DINO), and
of each hidden patch what the teacher says of it (iBOT, as in DINOv2). What says the same of different looks at one
thing is about what is there, not about its pixels: semantic features, where no DINOv2 weights fit the pictures.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import Dinov2Config, Dinov2Model

from ..core.study_sections import SelfDistillationProfile
from ..models.image_encoders import IMAGENET_MEAN, IMAGENET_STD
from .image_views import random_views
from .loop import TrainingRecord, train
from .objective import ImageObjective

# As in DINO, but for the momentum, which suits trainings a thousand times shorter.
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.04
CENTRE_MOMENTUM, TEACHER_MOMENTUM = 0.9, 0.99
GLOBAL_AREA, LOCAL_AREA = (0.4, 1.0), (0.1, 0.4)
HIDDEN_SHARE = 0.3

Tokens = Float[Tensor, "*rows width"]


class Prototypes(nn.Module):
    """A token's likeness to each of many learned directions: a small MLP, unit length, unit directions."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, 64))
        self.directions = nn.Parameter(torch.randn(count, 64))

    def forward(self, tokens: Tokens) -> Float[Tensor, "*rows prototypes"]:
        """Cosines in [-1, 1]."""
        return F.normalize(self.layers(tokens), dim=-1) @ F.normalize(self.directions, dim=-1).T


class ViTWithPrototypes(nn.Module):
    """A transformer with its head: normalised RGB to the cosines of the class token and of the patch tokens."""

    def __init__(self, settings: SelfDistillationProfile) -> None:
        super().__init__()
        self.backbone = Dinov2Model(
            Dinov2Config(
                hidden_size=settings.hidden_size,
                num_hidden_layers=settings.layers,
                num_attention_heads=settings.heads,
                patch_size=settings.patch_size,
                image_size=settings.input_size,
            )
        )
        self.prototypes = Prototypes(settings.hidden_size, settings.prototypes)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"], hidden: Tensor | None = None
    ) -> tuple[Float[Tensor, "batch prototypes"], Float[Tensor, "batch patches prototypes"]]:
        """Answers for whole images and for their patches.

        Args:
            images: of any size in whole patches.
            hidden: bool [batch, patches]: patches that are replaced by the mask token.
        """
        tokens = self.prototypes(self.backbone(images, bool_masked_pos=hidden).last_hidden_state)
        return tokens[:, 0], tokens[:, 1:]


class Teacher(nn.Module):
    """The running mean of the student, and of its own answers (the centres, which keep it from one answer to all)."""

    def __init__(self, student: ViTWithPrototypes, prototypes: int) -> None:
        super().__init__()
        self.network = copy.deepcopy(student).requires_grad_(False)
        self.register_buffer("centres", torch.zeros(2, prototypes))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def targets(self, answers: Tensor, kind: int) -> Tensor:
        """Sharpened probabilities of `answers`, of images (kind 0) or patches (kind 1)."""
        return ((answers - self.centres[kind]) / TEACHER_TEMPERATURE).softmax(dim=-1)

    @torch.no_grad()
    def follow(self, student: ViTWithPrototypes, means: Float[Tensor, "2 prototypes"], *, steps: int) -> None:
        """Move towards the student, the less the nearer the end of `steps`, and the centres towards `means`."""
        share = (1 - TEACHER_MOMENTUM) * 0.5 * (1 + math.cos(math.pi * min(1.0, self.step.item() / steps)))
        for mine, theirs in zip(self.network.parameters(), student.parameters(), strict=True):
            mine.lerp_(theirs, share)
        self.centres.lerp_(means, 1 - CENTRE_MOMENTUM)
        self.step += 1


class SelfDistillationObjective(ImageObjective):
    """Self-distillation on the images of batches; their labels are not looked at.

    Args:
        settings: shape of the transformer, prototypes, number of small crops.
        seed: of the crops, colours and hidden patches, drawn per (image, visit).
    """

    def __init__(self, settings: SelfDistillationProfile, *, seed: int = 0) -> None:
        student = ViTWithPrototypes(settings)
        super().__init__({"student": student, "teacher": Teacher(student, settings.prototypes)}, seed=seed)
        self.settings = settings
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)
        self._seen: list[tuple[Tensor, int]] = []

    def _hidden_patches(self, generators: Sequence[torch.Generator], patches: int) -> Tensor:
        """bool [len(generators), patches], the same number of them in each row."""
        count = max(1, round(HIDDEN_SHARE * patches))
        ranks = torch.stack([torch.randperm(patches, generator=generator) for generator in generators])
        return ranks < count

    def forward(self, batch: Mapping[str, Any], totals: Mapping[str, float]) -> dict[str, Tensor]:
        """The loss of a batch: cross-entropies of the student's answers to the teacher's."""
        student, teacher, settings = self.trained["student"], self.trained["teacher"], self.settings
        generators = self.generators(batch, "views")
        images, count = batch["image"], len(batch["image"])
        large = torch.cat([random_views(images, generators, settings.input_size, area=GLOBAL_AREA) for _ in range(2)])
        patches = (settings.input_size // settings.patch_size) ** 2
        hidden = torch.cat([self._hidden_patches(generators, patches) for _ in range(2)]).to(images.device)
        large = (large - self.mean) / self.std
        with torch.no_grad():
            whole, parts = teacher.network(large)
            self._seen.append((torch.stack([whole.sum(0), parts.mean(1).sum(0)]), len(whole)))
            whole, parts = teacher.targets(whole, 0), teacher.targets(parts, 1)
        said, said_of_parts = student(large, hidden)
        # each large view answers for the other one
        pairs = [(whole[:count], said[count:]), (whole[count:], said[:count])]
        if settings.local_views:
            side = settings.input_size // 2
            small = [random_views(images, generators, side, area=LOCAL_AREA) for _ in range(settings.local_views)]
            answers, _ = student((torch.cat(small) - self.mean) / self.std)
            pairs += [(view, answer) for answer in answers.split(count) for view in whole.split(count)]
        of_images = torch.stack([_cross_entropy(target, answer).sum() for target, answer in pairs]).mean()
        of_patches = (_cross_entropy(parts, said_of_parts) * hidden).sum() / (2 * hidden[0].sum())
        terms = {"images": of_images / totals["images"], "patches": of_patches / totals["images"]}
        return {"loss": terms["images"] + terms["patches"], **terms}

    @torch.no_grad()
    def after_step(self) -> None:
        """Let the teacher follow."""
        sums, count = torch.stack([s for s, _ in self._seen]).sum(0), sum(n for _, n in self._seen)
        counted = torch.cat([sums, torch.full_like(sums[:1], count)])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(counted)
        self._seen = []
        means = counted[:2] / counted[2:]
        self.trained["teacher"].follow(self.trained["student"], means, steps=self.settings.training.steps)


def _cross_entropy(target: Tensor, answer: Tensor) -> Tensor:
    return -(target * (answer / STUDENT_TEMPERATURE).log_softmax(dim=-1)).sum(-1)


def train_self_distilled_vit(
    settings: SelfDistillationProfile,
    dataset: Dataset,
    folder: str | Path,
    seed: int = 0,
    *,
    workers: int = 0,
    on_log: Callable[[Mapping[str, float]], None] | None = None,
) -> tuple[Path, TrainingRecord]:
    """Train a small ViT on the images of `dataset` and save the teacher's.

    Args:
        settings: the profile's `components.vit`.
        dataset: a `PanopticDataset`; its labels are not looked at.
        folder: gets checkpoints, metrics and vit/.
        seed: of everything drawn.
        workers: loader processes.
        on_log: as `ldmseg_lib.training.loop.train`.

    Returns:
        `folder`/vit, a Dinov2Model as transformers saves it (config.json, model.safetensors), and the record.
    """
    torch.manual_seed(seed)
    objective = SelfDistillationObjective(settings, seed=seed)
    record, _ = train(
        objective,
        dataset,
        settings.training,
        folder,
        seed=seed,
        workers=workers,
        title="self-distilled ViT",
        identity={name: getattr(settings, name) for name in ("hidden_size", "layers", "heads", "patch_size")},
        on_log=on_log,
    )
    target = Path(folder) / "vit"
    objective.trained["teacher"].network.backbone.eval().save_pretrained(target)
    return target, record
