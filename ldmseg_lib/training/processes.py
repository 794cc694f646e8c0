"""Several processes that train one model: who they are, and what they add up or gather."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor

from ..core.errors import ProfileError


def is_main_process() -> bool:
    """Whether this process is the one that writes files: of several that train together, the first."""
    return PartialState().is_main_process


def start_accelerator(precision: str) -> Accelerator:
    """Accelerate's view of this process and its peers, with the profile's precision.

    Raises:
        ProfileError: the device lacks the precision.
    """
    # it remembers the precision of the process's first training and refuses another
    AcceleratorState._reset_state()
    # of several processes without GPUs it would make as many trainings, all in one folder, unless told of the CPU
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    try:
        return Accelerator(
            mixed_precision={"fp32": "no"}.get(precision, precision), cpu=several and not torch.cuda.is_available()
        )
    except ValueError as error:
        raise ProfileError(f"training.precision {precision!r} does not work here ({error}); use fp32 or bf16") from None


def of_all_processes(states: Mapping[str, Tensor], accelerator: Accelerator) -> dict[str, Tensor]:
    """The random states of every process, as "<process>/<name>"."""
    gathered = {name: accelerator.gather(value.to(accelerator.device)[None]) for name, value in states.items()}
    return {f"{rank}/{name}": row for name, rows in gathered.items() for rank, row in enumerate(rows)}


def of_process(states: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """The states of the process `rank` among those of all; none if there were fewer processes then."""
    return {name.partition("/")[2]: value for name, value in states.items() if name.startswith(f"{rank}/")}


def summed_totals(
    objective: torch.nn.Module, micros: list[dict[str, Any]], accelerator: Accelerator, asked: bool
) -> tuple[dict[str, float], bool]:
    """The effective batch's normalisers, added up over micro-batches and processes; whether any process was asked."""
    shares = [objective.normalisers(batch) for batch in micros]
    names = list(shares[0])
    values = torch.tensor([*(sum(share[name] for share in shares) for name in names), asked], device=accelerator.device)
    if accelerator.num_processes > 1:
        values = accelerator.reduce(values, "sum")
    *totals, any_asked = values.tolist()
    return dict(zip(names, totals, strict=True)), any_asked > 0


def window_means(window: Mapping[str, list[Tensor]], steps: int, accelerator: Accelerator) -> dict[str, float]:
    """Mean over the window's steps of each term; terms of micro-batches and processes add up to a step's."""
    names = list(window)
    terms = torch.stack([torch.stack(window[name]).float() for name in names])
    if accelerator.scaler is not None:
        # fp16 overflows now and then, and the scaler skips such a step; not a number where all of them did
        finite = terms.isfinite()
        values = terms.where(finite, 0.0).sum(1) * terms.shape[1] / finite.sum(1) / steps
    else:
        values = terms.sum(1) / steps
    if accelerator.num_processes > 1:
        values = accelerator.reduce(values, "sum")
    return dict(zip(names, values.tolist(), strict=True))
