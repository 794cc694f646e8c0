"""The smallest objective and data set that use all of the loop: two convolutions, a normaliser that varies by image."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ldmseg_lib.core.randomness import torch_generator
from ldmseg_lib.core.sections import TrainingProfile

SETTINGS = {
    "steps": 8,
    "batch_size": 4,
    "micro_batch_size": None,
    "optimizer": "adamw",
    "learning_rate": 1e-2,
    "final_learning_rate": 1e-3,
    "warmup_steps": 2,
    "weight_decay": 0.05,
    "decay_norms": False,
    "gradient_clip": 1.0,
    "precision": "fp32",
    "gradient_checkpointing": False,
    "shard": False,
    "ema_decay": 0.9,
    "checkpoint_every": 2,
    "keep_checkpoints": 2,
    "log_every": 1,
}


def settings(**changes: Any) -> TrainingProfile:
    return TrainingProfile(**SETTINGS | changes)


class Pictures(Dataset):
    """Random pictures, drawn from (index, visit); `seen` keeps what was asked for."""

    def __init__(self, length: int = 10) -> None:
        self.length, self.seen = length, []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        self.seen.append(key)
        index, visit = key
        generator = torch_generator("picture", index, visit)
        return {"image": torch.randn(3, 6, 6, generator=generator), "count": 1 + index % 3, "index": index}


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    return {"image": torch.stack([s["image"] for s in samples]), "count": [s["count"] for s in samples]}


class Smoothing(nn.Module):
    """Learns a picture's mean over its neighbours. Every image has its own weight, as segments have in the real one."""

    def __init__(self, width: int = 4, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1))
        self.trained = nn.ModuleDict({"net": net})

    def normalisers(self, batch: Mapping[str, Any]) -> dict[str, float]:
        return {"parts": sum(batch["count"]), "images": len(batch["count"])}

    def forward(self, batch: Mapping[str, Any], totals: Mapping[str, float]) -> dict[str, Tensor]:
        images = batch["image"]
        target = nn.functional.avg_pool2d(images, 3, stride=1, padding=1)
        errors = (self.trained["net"](images) - target).square().mean((1, 2, 3))
        weights = torch.tensor(batch["count"], device=images.device)
        loss = (weights * errors).sum() / totals["parts"]
        return {"loss": loss, "plain": errors.sum().detach() / totals["images"]}


def weights(objective: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in objective.state_dict().items()}
