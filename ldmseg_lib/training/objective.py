"""What can be trained: the interface that the loop asks for, and the base class of the objectives of images."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..core.randomness import torch_generator


@runtime_checkable
class Objective(Protocol):
    """What the loop trains: an nn.Module with these methods, and `trained`, the modules that learn.

    One that also has `after_step()` gets that call after each optimiser step, on every process: for what follows the
    weights, such as a teacher that is their running mean. What it changes is resumed if it lies in `trained`.
    """

    trained: nn.ModuleDict

    def to(self, *arguments: Any, **settings: Any) -> Any:
        """Move and convert, as nn.Module does."""

    def normalisers(self, batch: Mapping[str, Any]) -> dict[str, float]:
        """What the losses of an effective batch are divided by, this micro-batch's share, from the data alone."""

    def __call__(self, batch: Mapping[str, Any], totals: Mapping[str, float]) -> dict[str, Tensor]:
        """Terms of this micro-batch, each already divided by the effective batch's totals; "loss" is minimised."""


class ImageObjective(nn.Module):
    """An objective whose loss is a mean over images; subclasses add `forward`.

    Args:
        trained: the modules that learn, by name.
        seed: of everything drawn, per (image, visit).
    """

    def __init__(self, trained: Mapping[str, nn.Module], *, seed: int) -> None:
        super().__init__()
        self.trained, self.seed = nn.ModuleDict(dict(trained)), seed

    def normalisers(self, batch: Mapping[str, Any]) -> dict[str, float]:
        """Images."""
        return {"images": len(batch["image_id"])}

    def generators(self, batch: Mapping[str, Any], purpose: str) -> list[torch.Generator]:
        """One stream per image, which depends on the seed, the purpose, the image and the visit alone."""
        keys = zip(batch["image_id"], batch["visit"], strict=True)
        return [torch_generator(self.seed, purpose, image_id, visit) for image_id, visit in keys]

    def noise_like(self, latents: Tensor, batch: Mapping[str, Any], purpose: str) -> Tensor:
        """Standard normal noise of the shape of `latents`, each row from its own stream."""
        rows = [torch.randn(latents.shape[1:], generator=g) for g in self.generators(batch, purpose)]
        return torch.stack(rows).to(latents)
