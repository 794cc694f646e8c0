"""A notebook's training on all GPUs of this machine, in processes of their own."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml
from tqdm.auto import tqdm

from ..core.errors import InputError
from ..core.files import write_text
from ..experiments.trainables import TRAINABLES
from ..training.launch import MODULE
from .stages import StageRun

_POLL = 1.0


def train_on_all_devices(stage: StageRun, name: str, *, devices: int | None = None) -> None:
    """In a notebook: train on all GPUs of this machine in processes of their own, with the progress shown here.

    With fewer than two GPUs, or with the stage finished, there is nothing to do. Afterwards the notebook's own training
    finds this one finished. Stopping the cell saves a checkpoint; the next start goes on from it.

    Args:
        stage: the open stage; its lock stays with the training, should the notebook end first.
        name: a key of TRAINABLES.
        devices: processes; None: one for each GPU.

    Raises:
        InputError: the training failed; the message has the end of its log.
    """
    import torch

    processes = torch.cuda.device_count() if devices is None else devices
    if processes < 2 or stage.result is not None:
        return

    trainable = TRAINABLES[name]
    folder = stage.folder / trainable.folder
    # with its overrides; the name in the run folder stays that of the profile, as the stage is open already
    settings = json.loads(json.dumps({k: v for k, v in dataclasses.asdict(stage.profile).items() if k != "name"}))
    profile, log = folder / "profile.yaml", folder / "training.log"
    write_text(profile, yaml.safe_dump(settings, sort_keys=False))
    command = [sys.executable, "-m", MODULE, name, "--opened", "--profile", str(profile), "--seed", str(stage.seed)]
    command += ["--run-dir", str(stage.run_dir), "--devices", str(processes)]
    if stage.data_given:
        command += ["--data-root", str(stage.data_root)]
    with open(log, "a") as output:
        lock = [] if stage.lock_handle is None else [stage.lock_handle]
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, pass_fds=lock, cwd=os.getcwd()
        )
        try:
            _show(
                process,
                folder / "metrics.jsonl",
                f"{name} on {processes} devices",
                trainable.settings(stage.profile).steps,
            )
        except BaseException:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise
    if process.returncode:
        end = " | ".join(line for line in log.read_text(errors="replace").splitlines()[-8:] if line.strip())
        raise InputError(f"the training of {name} ended with exit code {process.returncode}; {log} ends with: {end}")


def _show(process: subprocess.Popen, metrics: Path, title: str, steps: int) -> None:
    """A progress bar of a training in another process, until it ends."""
    with tqdm(total=steps, desc=title, unit="step") as bar:
        for entry in _entries(process, metrics):
            bar.update(entry["step"] - bar.n)
            bar.set_postfix(loss=f"{entry['loss']:.4f}", images_s=f"{entry['images_per_second']:.0f}")


def _entries(process: subprocess.Popen, metrics: Path) -> Iterator[Mapping[str, float]]:
    """The newest whole line of the metrics file, whenever it changed."""
    newest = ""
    while True:
        ended = process.poll() is not None
        lines = metrics.read_text().split("\n")[:-1] if metrics.exists() else []
        if lines and lines[-1] != newest:
            newest = lines[-1]
            yield json.loads(newest)
        if ended:
            return
        time.sleep(_POLL)
