"""Trainings in processes of their own, forked once everything is imported.

python -m tests.training.processes killed OVERRIDES_JSON DATA AUTOENCODER FOLDER
python -m tests.training.processes often_killed TIMES FOLDER
python -m tests.training.processes together FOLDER
python -m tests.training.processes launched FOLDER {whole,dying,waiting}
python -m tests.training.processes one_of_several FOLDER HOW
"""

import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from ldmseg_lib.core.files import read_json, write_json
from ldmseg_lib.core.profiles import Profile
from ldmseg_lib.core.sections import TrainingProfile
from ldmseg_lib.data.splits import training_split
from ldmseg_lib.experiments.segmentation import SegmentationScores, process_share
from ldmseg_lib.models.autoencoder import MaskAutoencoder
from ldmseg_lib.training import checkpoint
from ldmseg_lib.training.diffusion import train_diffusion
from ldmseg_lib.training.launch import run_processes
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


def often_killed(times: str, folder: str) -> None:
    """Train the toy in processes killed after random times, with a checkpoint after every step; then to the end.

    Writes how often a checkpoint was being written (`writing`), and how often one was there (`kept`), at a kill.
    """
    moments, found = random.Random(0), {"writing": 0, "kept": 0}
    checkpoints = Path(folder) / "run" / "checkpoints"

    def work() -> None:
        train(Smoothing(), Pictures(), often(), Path(folder) / "run", seed=0, collate=collate)

    for _ in range(int(times)):
        process = start(work)
        time.sleep(moments.uniform(0.05, 0.6))
        os.kill(process, signal.SIGKILL)
        assert end(process) in (-signal.SIGKILL, 0)
        found["writing"] += any(checkpoints.glob(".writing-*"))
        found["kept"] += bool(checkpoint.CheckpointFolder(checkpoints).steps())
    objective = Smoothing()
    train(objective, Pictures(), often(), Path(folder) / "run", seed=0, collate=collate)
    save_file(weights(objective), Path(folder) / "end.safetensors")
    write_json(Path(folder) / "found.json", found)


def often() -> TrainingProfile:
    """Settings of `often_killed`."""
    return settings(steps=400, checkpoint_every=1, log_every=20)


class Preempted(Pictures):
    """Sends SIGTERM to its process when it is asked for its 5th picture."""

    def __getitem__(self, key: tuple[int, int]) -> dict:
        if len(self.seen) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__getitem__(key)


def judged(index: int) -> tuple[SimpleNamespace, SimpleNamespace]:
    """A ground truth and a prediction that is mostly right, of image `index`."""
    draw = np.random.default_rng(index)
    ids = np.kron(draw.integers(0, 5, (4, 4)), np.ones((6, 6), np.int64)).astype(np.int32)
    predicted = np.where(draw.random(ids.shape) < 0.25, 0, ids).astype(np.int32)

    def segments(found: np.ndarray) -> list[dict[str, Any]]:
        return [{"id": int(i), "category_id": 1 + int(i) % 2, "iscrowd": 0} for i in np.unique(found) if i]

    truth = SimpleNamespace(ids=ids, segments=segments(ids))
    return truth, SimpleNamespace(
        instance_ids=[predicted], ids=[predicted], segments=[segments(predicted)], semantic=[1 + predicted % 2]
    )


def scores_of(images: Any) -> SegmentationScores:
    """The scores of `judged` images."""
    categories = [{"id": 1, "name": "a", "isthing": 1}, {"id": 2, "name": "b", "isthing": 0}]
    scores = SegmentationScores(SimpleNamespace(categories=categories, num_classes=2, class_index={1: 1, 2: 2}))
    for index in images:
        truth, output = judged(index)
        scores.update(truth, output, 0)
    return scores


def together(folder: str) -> None:
    """Train the toy in two processes: plainly, preempted and started again, with sharded state, and evaluate in two."""

    def two(name: str, *, preempted: bool = False, **changes: Any) -> list[int]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        def process(rank: int) -> None:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            dataset = Preempted() if preempted and rank == 1 else Pictures()
            objective, held = Smoothing(), {}

            def look(_: Any) -> None:
                for key, p in objective.trained.named_parameters():
                    held[key] = list(p.to_local().shape) if isinstance(p, DTensor) else None

            train(objective, dataset, settings(**changes), Path(folder) / name, seed=0, collate=collate, on_log=look)
            save_file(weights(objective), Path(folder) / f"{name}-{rank}.safetensors")
            write_json(Path(folder) / f"{name}-{rank}.json", {"seen": dataset.seen, "held": held})
            scores = scores_of(process_share(range(11)))
            scores.merge_processes()
            write_json(Path(folder) / f"scores-{rank}.json", scores.compute())

        processes = [start(lambda rank=rank: process(rank)) for rank in (0, 1)]
        return [end(process) for process in processes]

    assert two("whole") == [0, 0]
    assert two("cut", preempted=True) == [EXIT_RESUMABLE, EXIT_RESUMABLE]
    assert not (Path(folder) / "cut-0.safetensors").exists()
    assert two("cut") == [0, 0]
    assert two("sharded", shard=True, micro_batch_size=1) == [0, 0]
    assert two("sharded_cut", preempted=True, shard=True) == [EXIT_RESUMABLE, EXIT_RESUMABLE]


def launched(folder: str, how: str) -> None:
    """Train the toy in two processes under our launcher, which exits with its own code."""
    code = run_processes(["one_of_several", folder, how], processes=2, module="tests.training.processes")
    sys.exit(code)


class Broken(Pictures):
    """Fails at its 9th picture."""

    def __getitem__(self, key: tuple[int, int]) -> dict:
        if len(self.seen) == 8:
            raise RuntimeError("picture 8 is torn")
        return super().__getitem__(key)


class Slow(Pictures):
    """Takes its time, and says when the training is on its way."""

    def __init__(self, sign: Path) -> None:
        super().__init__()
        self.sign = sign

    def __getitem__(self, key: tuple[int, int]) -> dict:
        time.sleep(0.05)
        if len(self.seen) == 6:
            self.sign.touch()
        return super().__getitem__(key)


def one_of_several(folder: str, how: str) -> None:
    """What the launcher starts."""
    rank, dataset = os.environ["RANK"], Pictures()
    if how == "dying" and rank == "1":
        dataset = Broken()
    elif how == "waiting":
        dataset = Slow(Path(folder) / f"on-its-way-{rank}")
    objective = Smoothing()
    steps = 2000 if how == "waiting" else 8
    train(objective, dataset, settings(steps=steps), Path(folder) / "run", seed=0, collate=collate)
    save_file(weights(objective), Path(folder) / f"{how}-{rank}.safetensors")


if __name__ == "__main__":
    commands = (killed, often_killed, together, launched, one_of_several)
    {command.__name__: command for command in commands}[sys.argv[1]](*sys.argv[2:])
