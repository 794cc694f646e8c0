"""Trainings in processes of their own, forked once everything is imported.

python -m tests.training.processes killed OVERRIDES_JSON DATA AUTOENCODER FOLDER
python -m tests.training.processes together FOLDER
"""

import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file

from ldmseg_lib.data.splits import training_split
from ldmseg_lib.files import read_json
from ldmseg_lib.models.autoencoder import MaskAutoencoder
from ldmseg_lib.profiles import Profile
from ldmseg_lib.training import checkpoint
from ldmseg_lib.training.diffusion import train_diffusion
from ldmseg_lib.training.loop import EXIT_RESUMABLE, train
from tests.training.toy import Pictures, Smoothing, collate, settings, weights


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def between_checkpoints(entry: dict) -> None:
    if entry["step"] == 3:
        die()


def while_tensors_are_written() -> None:
    real = checkpoint.save_file

    def half(tensors: dict, path: Path) -> None:
        if "00000004" in str(path):
            path.write_bytes(b"\0" * 1000)
            die()
        real(tensors, path)

    checkpoint.save_file = half


def before_the_checkpoint_is_in_place() -> None:
    real = os.replace

    def never(source: str, target: str) -> None:
        if "00000006" in str(target):
            die()
        real(source, target)

    checkpoint.os.replace = never


def start(work: Callable[[], None]) -> int:
    """The id of a process that does `work` and exits with 0, or with the code that it asks for."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            work()
            code = 0
        except SystemExit as left:
            code = left.code
        finally:
            sys.stderr.flush()
            os._exit(code)
    return process


def end(process: int) -> int:
    """Its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed(overrides: str, data: str, autoencoder: str, folder: str) -> None:
    """Train the diffusion model in processes that are killed (SIGKILL, which nothing can catch), and to the end."""
    profile = Profile.load("smoke", read_json(overrides))
    dataset = training_split(profile, data)

    def train_to_end(**settings: Callable) -> None:
        train_diffusion(profile, dataset, {"mask": MaskAutoencoder.from_pretrained(autoencoder)}, folder, **settings)

    def kept() -> list[int]:
        return checkpoint.CheckpointFolder(Path(folder) / "checkpoints").steps()

    def disturbed(disturb: Callable[[], None]) -> Callable[[], None]:
        return lambda: (disturb(), train_to_end())

    for work, steps in (
        (lambda: train_to_end(on_log=between_checkpoints), [2]),
        (disturbed(while_tensors_are_written), [2]),
        (disturbed(before_the_checkpoint_is_in_place), [2, 4]),
    ):
        assert end(start(work)) == -signal.SIGKILL
        assert kept() == steps, kept()
    train_to_end()


class Preempted(Pictures):
    """Sends SIGTERM to its process when it is asked for its 5th picture."""

    def __getitem__(self, key: tuple[int, int]) -> dict:
        if len(self.seen) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__getitem__(key)


def together(folder: str) -> None:
    """Train the toy in two processes; in a second folder one of them is preempted, and both start again."""

    def two(name: str, preempted: bool) -> list[int]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        def process(rank: int) -> None:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            dataset = Preempted() if preempted and rank == 1 else Pictures()
            objective = Smoothing()
            train(objective, dataset, settings(), Path(folder) / name, seed=0, collate=collate)
            save_file(weights(objective), Path(folder) / f"{name}-{rank}.safetensors")

        processes = [start(lambda rank=rank: process(rank)) for rank in (0, 1)]
        return [end(process) for process in processes]

    assert two("whole", False) == [0, 0]
    assert two("cut", True) == [EXIT_RESUMABLE, EXIT_RESUMABLE]
    assert not (Path(folder) / "cut-0.safetensors").exists()
    assert two("cut", False) == [0, 0]


if __name__ == "__main__":
    {"killed": killed, "together": together}[sys.argv[1]](*sys.argv[2:])
