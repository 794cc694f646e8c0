"""Trains the diffusion model in processes that are killed, and once more to the end.

    python killed.py PROFILE_JSON DATA AUTOENCODER FOLDER

Each process is killed (SIGKILL, which nothing can catch) at another moment; the last one is left alone.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from ldmseg_lib.data.splits import training_split
from ldmseg_lib.files import read_json
from ldmseg_lib.models.autoencoder import MaskAutoencoder
from ldmseg_lib.profiles import Profile
from ldmseg_lib.training import checkpoint
from ldmseg_lib.training.diffusion import train_diffusion


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


def in_a_process(work: Callable[[], None]) -> int:
    """The signal that ended it, or 0."""
    process = os.fork()
    if process == 0:
        work()
        os._exit(0)
    _, status = os.waitpid(process, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def main(overrides: str, data: str, autoencoder: str, folder: str) -> None:
    profile = Profile.load("smoke", read_json(overrides))
    dataset = training_split(profile, data)

    def train(**settings: Callable) -> None:
        train_diffusion(profile, dataset, {"mask": MaskAutoencoder.from_pretrained(autoencoder)}, folder, **settings)

    def kept() -> list[int]:
        return checkpoint.CheckpointFolder(Path(folder) / "checkpoints").steps()

    def disturbed(disturb: Callable[[], None]) -> Callable[[], None]:
        return lambda: (disturb(), train())

    for work, steps in (
        (lambda: train(on_log=between_checkpoints), [2]),
        (disturbed(while_tensors_are_written), [2]),
        (disturbed(before_the_checkpoint_is_in_place), [2, 4]),
    ):
        assert in_a_process(work) == signal.SIGKILL
        assert kept() == steps, kept()
    train()


if __name__ == "__main__":
    main(*sys.argv[1:])
