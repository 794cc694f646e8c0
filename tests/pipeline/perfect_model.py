"""A pipeline whose networks make no mistake: what inpainting gets wrong with it, inpainting itself gets wrong."""

from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ldmseg_lib.pipeline.images import ImageFeatures
from ldmseg_lib.pipeline.ldmseg import LDMSegPipeline

SIDE, FACTOR, NUM_IDS = 64, 4, 16
CELLS = SIDE // FACTOR
CATEGORIES = [
    {"id": 11, "name": "ball", "isthing": 1},
    {"id": 22, "name": "box", "isthing": 1},
    {"id": 33, "name": "floor", "isthing": 0},
]


class OneHotAutoencoder:
    """A latent cell is the one-hot vector of the id at the cell's centre."""

    factor = FACTOR
    config = SimpleNamespace(num_ids=NUM_IDS)

    def to_latents(self, target: Tensor) -> Tensor:
        return F.one_hot(target[:, 2::FACTOR, 2::FACTOR], NUM_IDS).permute(0, 3, 1, 2).float()

    def from_latents(self, latents: Tensor) -> Tensor:
        return 20 * latents.repeat_interleave(FACTOR, dim=2).repeat_interleave(FACTOR, dim=3)


class PerfectDenoiser:
    """Told the true segment of each cell by the image's features, and from the self-condition what is known.

    A segment of which anything is known takes the known id, any other one an unused id. Segment k has class k % 3 + 1.
    """

    config = SimpleNamespace(latent_channels=NUM_IDS, tasks=["instance", "semantic"], self_condition=True)
    affinity = None

    def __init__(self, tasks: tuple[str, ...] = ("instance", "semantic")) -> None:
        self.config = SimpleNamespace(latent_channels=NUM_IDS, tasks=list(tasks), self_condition=True)
        self.calls: list[tuple[Tensor, Tensor, int]] = []

    def task_ids(self, tasks: list[str]) -> Tensor:
        return torch.tensor([self.config.tasks.index(task) for task in tasks])

    def __call__(
        self,
        noisy: Tensor,
        image_latents: Tensor,
        condition: Tensor,
        timesteps: Tensor,
        tasks: Tensor,
        affinity: Tensor | None,
    ) -> Tensor:
        self.calls.append((noisy, condition, int(timesteps[0])))
        truth = image_latents[:, 0].round().long()
        semantic = torch.tensor([self.config.tasks[task] == "semantic" for task in tasks.tolist()])
        answers = [
            t % 3 + 1 if is_semantic else self.named(t, c) for t, c, is_semantic in zip(truth, condition, semantic)
        ]
        return F.one_hot(torch.stack(answers), NUM_IDS).permute(0, 3, 1, 2).float()

    def named(self, truth: Tensor, condition: Tensor) -> Tensor:
        strength, ids = condition.max(dim=0)
        names: dict[int, int] = {}
        for segment in truth.unique().tolist():
            votes = ids[(truth == segment) & (strength == 1) & (ids > 0)]
            if len(votes):
                names[segment] = int(votes.mode().values)
        for segment in truth.unique().tolist():
            unused = (i for i in range(1, NUM_IDS) if i not in names.values())
            names.setdefault(segment, 0 if strength.max() == 0 else next(unused))
        table = torch.zeros(int(truth.max()) + 1, dtype=torch.long)
        for segment, name in names.items():
            table[segment] = name
        return table[truth]


class GrayLevels:
    """Image features: the segment of each cell, told by its gray level of 20 a segment."""

    dtype = torch.float32

    def __call__(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        return F.adaptive_avg_pool2d(images.mean(dim=1, keepdim=True), size) * 255 / 20


def perfect_pipeline(tasks: tuple[str, ...] = ("instance", "semantic")) -> LDMSegPipeline:
    return LDMSegPipeline(
        OneHotAutoencoder(),
        PerfectDenoiser(tasks),
        GrayLevels(),
        image_size=SIDE,
        categories=CATEGORIES,
        prediction_type="sample",
        min_area=0,
    )


def scene(seed: int, *, segments: int = 7) -> np.ndarray:
    """The true segment 1..segments of each cell [16, 16]: rectangles over one another, the first one everywhere."""
    draw = np.random.default_rng(seed)
    truth = np.ones((CELLS, CELLS), np.int64)
    for segment in range(2, segments + 1):
        top, left = draw.integers(0, CELLS - 4, 2)
        height, width = draw.integers(3, 8, 2)
        truth[top : top + height, left : left + width] = segment
    return truth


def features_of(truth: np.ndarray, size: tuple[int, int]) -> ImageFeatures:
    return ImageFeatures(torch.from_numpy(truth)[None, None].float(), [size])


def at_size(cells: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map of cells at `size` (height, width), multiples of the number of cells."""
    return cells.repeat(size[0] // CELLS, axis=0).repeat(size[1] // CELLS, axis=1)
