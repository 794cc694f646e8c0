"""Checkpoints: a folder of safetensors and one JSON, written aside, checksummed, renamed.

    step-00000800/  tensors.safetensors   everything that is a tensor, under "part/name"
                    state.json            everything else, and the SHA-256 of the tensors

Optimiser state is flattened into "optimizer/state/<parameter>/<name>"; random states are uint8 tensors. Nothing here
reads or writes a pickle.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import CheckpointError
from ..files import write_json

TENSORS, STATE = "tensors.safetensors", "state.json"


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The tensors of an optimiser's state as "state/<index>/<name>"; its settings are the profile's and not stored."""
    return {
        f"state/{index}/{name}": torch.as_tensor(value)
        for index, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `flatten_optimizer` took, each tensor laid out in memory as its parameter is."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        _, index, name = key.split("/")
        if value.ndim:
            # files hold plain layouts; fused optimisers walk through memory and would pair channels-last parameters
            # with other elements' moments
            value = torch.empty_like(parameters[int(index)], dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def random_states() -> dict[str, Tensor]:
    """The states of torch's global generators. Training draws from keyed streams; user code may not."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def restore_random_states(states: Mapping[str, Tensor]) -> None:
    """Put back what `random_states` took, for the devices that are there."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"].cpu())
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if f"cuda{index}" in states:
            torch.cuda.set_rng_state(states[f"cuda{index}"].cpu(), index)


class CheckpointFolder:
    """The checkpoints of one training, the last `keep` of them kept."""

    def __init__(self, folder: str | os.PathLike, *, keep: int = 2) -> None:
        self.folder, self.keep = Path(folder), keep

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, in order."""
        names = (path.name for path in self.folder.glob("step-*") if path.is_dir())
        return sorted(int(name.removeprefix("step-")) for name in names if name.removeprefix("step-").isdigit())

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def save(self, step: int, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path:
        """Write the checkpoint of `step`; older ones beyond `keep` go only when it is whole.

        Args:
            step: optimiser steps done.
            parts: named groups of tensors, such as {"model": state_dict, "ema": ...}.
            state: what JSON can hold.

        Raises:
            CheckpointError: the disk is full or not writable; the checkpoints before stay as they are.
        """
        final, aside = self._path(step), self.folder / f".writing-{step:08d}-{os.getpid()}"
        try:
            # what a killed process left half written
            for leftover in self.folder.glob(".writing-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            aside.mkdir(parents=True)
            tensors = {
                f"{part}/{name}": value.detach().cpu().contiguous().clone()
                for part, values in parts.items()
                for name, value in values.items()
            }
            save_file(tensors, aside / TENSORS)
            with open(aside / TENSORS, "rb") as written:
                os.fsync(written.fileno())
            write_json(aside / STATE, {**state, "step": step, "sha256": _digest(aside / TENSORS)})
            if final.exists():
                shutil.rmtree(final)
            os.replace(aside, final)
        except (OSError, ValueError, SafetensorError) as error:
            shutil.rmtree(aside, ignore_errors=True)
            last = f"the last good one is {self._path(self.steps()[-1])}" if self.steps() else "there is none before it"
            raise CheckpointError(f"{final}: the checkpoint could not be written ({error}); {last}") from error
        # later ones are damaged: the training went on from one before them
        steps = [other for other in self.steps() if other <= step]
        for old in {*self.steps()} - {*steps[-max(1, self.keep) :]}:
            shutil.rmtree(self._path(old), ignore_errors=True)
        return final

    def load(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
        """The newest whole checkpoint as (parts, state), or None. A damaged one is passed over, with a warning."""
        steps = self.steps()
        for place, step in reversed(list(enumerate(steps))):
            try:
                return self._read(self._path(step))
            except CheckpointError as error:
                before = "the checkpoint before it is used" if place else "there is none before it: all begins anew"
                warnings.warn(f"{error}; {before}", stacklevel=2)
        return None

    def _read(self, path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        try:
            state = json.loads((path / STATE).read_text())
            intact = _digest(path / TENSORS) == state["sha256"]
            tensors = load_file(path / TENSORS) if intact else {}
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CheckpointError(f"{path}: damaged checkpoint ({error})") from error
        if not intact:
            raise CheckpointError(f"{path}: damaged checkpoint ({TENSORS} does not match its checksum)")
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            part, _, name = key.partition("/")
            parts.setdefault(part, {})[name] = value
        return parts, state


def load_part(module: nn.Module, tensors: Mapping[str, Tensor], *, what: str) -> None:
    """Load `tensors` into `module`.

    Raises:
        CheckpointError: names or shapes differ; the message names the first difference and says what was loaded.
    """
    own = module.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        if name not in tensors or name not in own:
            side = "lacks" if name not in tensors else "has an unknown"
            raise CheckpointError(
                f"{what}: the checkpoint {side} tensor {name!r}; it belongs to another model or profile"
            )
        theirs, ours = tuple(tensors[name].shape), tuple(own[name].shape)
        if theirs != ours:
            raise CheckpointError(
                f"{what}: tensor {name!r} is {theirs} in the checkpoint and {ours} in the model; it belongs to another"
                " profile"
            )
    module.load_state_dict(dict(tensors))
