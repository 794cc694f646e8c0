"""Dense prediction tasks as data: a name, the target map of a sample, and which autoencoder makes its latents."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.errors import InputError


@dataclass(frozen=True)
class Task:
    """One task.

    Args:
        name: the task's name, in profiles and in the denoiser's list of tokens.
        target: the map [batch, height, width] of a batch: int64 ids, 0 void, or floats in [-1, 1], NaN unknown.
        autoencoder: "mask" (ids) or "depth" (one continuous channel).
    """

    name: str
    target: Callable[[Mapping[str, Any]], Tensor]
    autoencoder: str


def relative_depth(inverse_depth: Tensor) -> Tensor:
    """Inverse depth of each map scaled to [-1, 1] over its known pixels; unknown pixels stay NaN.

    The depth targets are relative (supplement A): MiDaS predicts inverse depth up to scale and shift.
    """
    flat = inverse_depth.flatten(1)
    low = torch.nan_to_num(flat, nan=torch.inf).amin(1)
    high = torch.nan_to_num(flat, nan=-torch.inf).amax(1)
    span = torch.where(high > low, high - low, torch.ones_like(high))
    return (inverse_depth - low[:, None, None]) / span[:, None, None] * 2 - 1


def _depth_target(batch: Mapping[str, Any]) -> Tensor:
    if batch.get("depth") is None:
        raise InputError(
            "the data set has no depth, which the depth task needs; `python -m ldmseg_lib.data.depth ROOT` makes it"
        )
    return relative_depth(batch["depth"])


TASKS: dict[str, Task] = {
    "instance": Task("instance", lambda batch: batch["ids"], "mask"),
    "semantic": Task("semantic", lambda batch: batch["semantic"], "mask"),
    "depth": Task("depth", _depth_target, "depth"),
}


def get_tasks(names: Mapping[str, float] | list[str] | tuple[str, ...]) -> list[Task]:
    """The tasks of `names`, in order.

    Raises:
        InputError: an unknown task; the message names the known ones.
    """
    for name in names:
        if name not in TASKS:
            raise InputError(f"unknown task {name!r}; known ones are {', '.join(TASKS)}")
    return [TASKS[name] for name in names]


def known_cells(target: Tensor, factor: int) -> Tensor:
    """1 where the latent cell counts in the loss, [batch, 1, height / f, width / f]: its first pixel is known.

    The first pixel of each cell is what torch's nearest down-sampling takes.
    """
    cells = target[:, ::factor, ::factor]
    known = cells != 0 if not cells.is_floating_point() else ~cells.isnan()
    return known[:, None].float()
