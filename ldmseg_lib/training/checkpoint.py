"""Checkpoints: a folder of safetensors and one JSON, written aside, checksummed, renamed.

    step-00000800/  tensors.safetensors   everything that is a tensor, under "part/name"
                    state.json            everything else, and the SHA-256 of the tensors

Optimiser state is flattened into "optimizer/state/<parameter>/<name>"; random states are uint8 tensors. Nothing here
reads or writes a pickle.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..core.errors import CheckpointError
from ..core.files import write_json
from .sharding import laid_out_as

TENSORS, STATE = "tensors.safetensors", "state.json"


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush_folder(folder: Path) -> None:
    """Bring a rename to the disk, so that a power cut after older files were removed finds the new one."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
            value = laid_out_as(value, parameters[int(index)])
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def random_states() -> dict[str, Tensor]:
    """The states of the global generators of torch, NumPy and Python. Training draws from keyed streams; user code may
    not."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    state: Any = np.random.get_state(legacy=True)  # noqa: NPY002 - the global one is meant
    _, keys, *rest = state
    states |= {"numpy": torch.from_numpy(keys.astype(np.int64)), "numpy_rest": torch.tensor(rest, dtype=torch.float64)}
    _, words, gauss = random.getstate()
    states["python"] = torch.tensor(words, dtype=torch.int64)
    return states | {"python_gauss": torch.tensor([gauss is not None, gauss or 0.0], dtype=torch.float64)}


def restore_random_states(states: Mapping[str, Tensor]) -> None:
    """Put back what `random_states` took, for the devices that are there."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())
    if "numpy" in states:
        position, has_gauss, gauss = states["numpy_rest"].tolist()
        keys = states["numpy"].numpy().astype(np.uint32)
        np.random.set_state(("MT19937", keys, int(position), int(has_gauss), gauss))  # noqa: NPY002
    if "python" in states:
        has_gauss, gauss = states["python_gauss"].tolist()
        random.setstate((3, tuple(states["python"].tolist()), gauss if has_gauss else None))


class CheckpointFolder:
    """The checkpoints of one training: the last `keep` of them are kept, and the one with the best metric."""

    def __init__(self, folder: str | os.PathLike, *, keep: int = 2) -> None:
        self.folder, self.keep = Path(folder), keep

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, in order."""
        names = (path.name for path in self.folder.glob("step-*") if path.is_dir())
        return sorted(int(name.removeprefix("step-")) for name in names if name.removeprefix("step-").isdigit())

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def metrics(self) -> dict[int, float]:
        """The metric of each checkpoint that has one, by step; larger is better."""
        found = {}
        for step in self.steps():
            with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
                found[step] = float(json.loads((self._path(step) / STATE).read_text()).get("metric"))
        return found

    def save(
        self,
        step: int,
        parts: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        *,
        metric: float | None = None,
    ) -> Path:
        """Write the checkpoint of `step`; older ones beyond `keep`, but for the best, go only when it is whole.

        Args:
            step: optimiser steps done.
            parts: named groups of tensors, such as {"model": state_dict, "ema": ...}.
            state: what JSON can hold.
            metric: how good the weights are, larger being better; None: not measured.

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
            write_json(aside / STATE, {**state, "step": step, "metric": metric, "sha256": _digest(aside / TENSORS)})
            if final.exists():
                shutil.rmtree(final)
            os.replace(aside, final)
            _flush_folder(self.folder)
        except (OSError, ValueError, SafetensorError) as error:
            shutil.rmtree(aside, ignore_errors=True)
            last = f"the last good one is {self._path(self.steps()[-1])}" if self.steps() else "there is none before it"
            raise CheckpointError(f"{final}: the checkpoint could not be written ({error}); {last}") from error
        # later ones are damaged: the training went on from one before them
        steps = [other for other in self.steps() if other <= step]
        kept = {*steps[-max(1, self.keep) :]}
        metrics = {other: value for other, value in self.metrics().items() if other <= step}
        kept |= {max(metrics, key=lambda other: (metrics[other], other))} if metrics else set()
        for old in {*self.steps()} - kept:
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
