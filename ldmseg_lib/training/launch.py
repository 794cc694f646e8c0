"""Several processes on this machine: torchrun's agent, with what it lacks for preemption; its use from a notebook."""

import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import yaml
from tqdm.auto import tqdm

from ..errors import InputError
from ..files import write_text
from .preemption import EXIT_RESUMABLE

if TYPE_CHECKING:
    from ..stages import StageRun

MODULE = "ldmseg_lib.training"
# One process that ends with an error takes the others with it: they are asked, and after so many seconds made to.
PATIENCE = 30
_POLL = 1.0
_PR_SET_PDEATHSIG = 1


def take_slurm_for_torchrun(environment: MutableMapping[str, str]) -> None:
    """Under `srun`, set what torchrun would: srun already starts a process a GPU, and passes signals and exit codes on.

    MASTER_ADDR, the first node's name, has to be set by the batch script.

    Raises:
        InputError: MASTER_ADDR is missing.
    """
    if "RANK" in environment or int(environment.get("SLURM_STEP_NUM_TASKS", "1")) < 2:
        return
    if "MASTER_ADDR" not in environment:
        raise InputError(
            "several processes were started by srun, but MASTER_ADDR is not set; in the batch script: export"
            ' MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)'
        )
    environment.setdefault("MASTER_PORT", "29500")
    environment["RANK"] = environment["SLURM_PROCID"]
    environment["WORLD_SIZE"] = environment["SLURM_STEP_NUM_TASKS"]
    environment["LOCAL_RANK"] = environment["SLURM_LOCALID"]
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE", environment["SLURM_STEP_NUM_TASKS"])
    environment["LOCAL_WORLD_SIZE"] = tasks.split(",")[0].split("(")[0]


def end_with_parent() -> None:
    """Ask the kernel for a SIGTERM when the parent process is gone: whoever holds the stage's lock. Linux only."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def run_processes(arguments: Sequence[str], *, processes: int, module: str = MODULE) -> int:
    """Run `python -m MODULE` with `arguments` in so many processes of this machine; returns the exit code.

    A SIGTERM is passed on to all of them and they get the time they need to save; then the code is 75, where torchrun
    would say 1. Of several failures the first one counts, and is printed.
    """
    import psutil  # type: ignore[import-untyped]
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    def pass_on(_number: int, _frame: FrameType | None) -> None:
        children = psutil.Process().children()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.send_signal(signal.SIGTERM)
        if not children:
            sys.exit(EXIT_RESUMABLE)

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        signals_to_handle="SIGINT,SIGHUP",
        shutdown_timeout=PATIENCE,
    )
    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        elastic_launch(config, sys.executable)("-u", "-m", module, *arguments)
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if failure.exitcode == EXIT_RESUMABLE:
            return EXIT_RESUMABLE
        how = f"signal {-failure.exitcode}" if failure.exitcode < 0 else f"exit code {failure.exitcode}"
        print(f"error: process {rank} of {processes} ended first, with {how}; the others were stopped", file=sys.stderr)
        return max(1, failure.exitcode)
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def train_on_all_devices(stage: "StageRun", name: str, *, devices: int | None = None) -> None:
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
    from .trainables import TRAINABLES

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
