"""Several processes on this machine: torchrun's agent, with what it lacks for preemption; its use from a notebook."""

import contextlib
import ctypes
import signal
import sys
import uuid
from collections.abc import MutableMapping, Sequence
from types import FrameType

from ..core.errors import InputError
from .preemption import EXIT_RESUMABLE

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
