"""Images a second of the two trainings, and where a step's time goes: is the data loader ever the limit?

    python benchmarks/training_speed.py --profile demo --data runs/demo/01_dataset/data

The profile's own loop, data, batch and networks; the autoencoder is a fresh one, whose values do not matter for time.
The first steps are not counted. Writes benchmarks/results/training_speed_<profile>.json.
"""

import argparse
import contextlib
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from ldmseg_lib.core.errors import InputError, one_line_errors
from ldmseg_lib.core.files import write_json
from ldmseg_lib.core.machine import device_name, package_versions
from ldmseg_lib.core.profiles import Profile
from ldmseg_lib.core.sections import TrainingProfile
from ldmseg_lib.data.splits import training_split
from ldmseg_lib.models.autoencoder import build_autoencoder
from ldmseg_lib.training import loop
from ldmseg_lib.training.autoencoder import AutoencoderObjective, train_autoencoder
from ldmseg_lib.training.diffusion import DiffusionObjective, train_diffusion

PARTS = ("waiting for data", "forward", "backward", "optimiser", "average of weights and the rest")
WARM_UP = 5


class StepClock:
    """Seconds of each part of each step, told by what happens last in it."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.last = time.perf_counter()

    def lap(self, part: str) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if part == PARTS[0]:
            # what went by since the optimiser ended was the rest of the step before
            self.steps.append({})
        if self.steps:
            self.steps[-1][part] = self.steps[-1].get(part, 0.0) + now - self.last
        self.last = now


@contextlib.contextmanager
def clocked(objective: type[torch.nn.Module]) -> Iterator[StepClock]:
    """Training loops inside are clocked, if what they train is an `objective`."""
    clock, forward, batches_of = StepClock(), objective.forward, loop.batches_of

    def timed_forward(self: Any, *args: Any) -> dict[str, Tensor]:
        terms = forward(self, *args)
        clock.lap("forward")
        return terms

    @contextlib.contextmanager
    def timed_batches(*args: Any) -> Iterator[Iterator[Any]]:
        def timed(batches: Iterator[Any]) -> Iterator[Any]:
            while True:
                if clock.steps:
                    clock.lap(PARTS[-1])
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                clock.lap(PARTS[0])
                yield batch

        with batches_of(*args) as batches:
            yield timed(batches)

    before = register_optimizer_step_pre_hook(lambda *_: clock.lap("backward"))
    after = register_optimizer_step_post_hook(lambda *_: clock.lap("optimiser"))
    patches: Any = (
        mock.patch.object(objective, "forward", timed_forward),
        mock.patch.object(loop, "batches_of", timed_batches),
    )
    try:
        with patches[0], patches[1]:
            yield clock
    finally:
        before.remove()
        after.remove()


def measure(objective: type[torch.nn.Module], train: Callable[[], Any], batch: int) -> dict[str, Any]:
    """Images a second and the share of each part, over the steps of `train` after the first few."""
    with clocked(objective) as clock:
        train()
    # the last step has no rest; its end is not seen
    steps = [step for step in clock.steps[WARM_UP:-1] if len(step) == len(PARTS)]
    if not steps:
        raise InputError(f"give more steps than {WARM_UP + 1}")
    seconds = {part: statistics.median(step[part] for step in steps) for part in PARTS}
    total = sum(seconds.values())
    return {
        "batch": batch,
        "steps": len(steps),
        "images a second": round(batch / total, 1),
        "seconds a step": round(total, 4),
        "share of a step": {part: round(value / total, 3) for part, value in seconds.items()},
    }


@one_line_errors
def main() -> int:
    """Exit code 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="demo", help="smoke, demo, gpu, paper, or a YAML file")
    parser.add_argument("--overrides", help='single settings, such as {"data.workers": 2}')
    parser.add_argument("--data", type=Path, required=True, help="a COCO-panoptic folder")
    parser.add_argument("--steps", type=int, default=30, help="of each training (%(default)s)")
    options = parser.parse_args()

    def short(training: TrainingProfile) -> TrainingProfile:
        return dataclasses.replace(training, steps=options.steps, checkpoint_every=options.steps)

    profile = Profile.load(options.profile, options.overrides)
    profile = dataclasses.replace(
        profile,
        autoencoder=dataclasses.replace(profile.autoencoder, training=short(profile.autoencoder.training)),
        diffusion=dataclasses.replace(profile.diffusion, training=short(profile.diffusion.training)),
    )
    dataset = training_split(profile, options.data)
    with tempfile.TemporaryDirectory() as folder:
        found = {
            "autoencoder": measure(
                AutoencoderObjective,
                lambda: train_autoencoder(profile, dataset, Path(folder) / "autoencoder"),
                profile.autoencoder.training.batch_size,
            ),
            "diffusion": measure(
                DiffusionObjective,
                lambda: train_diffusion(
                    profile, dataset, {"mask": build_autoencoder(profile)}, Path(folder) / "diffusion"
                ),
                profile.diffusion.training.batch_size,
            ),
        }
    result = Path(__file__).parent / "results" / f"training_speed_{profile.name}.json"
    header = {"device": device_name(), "threads": torch.get_num_threads(), "packages": package_versions()}
    write_json(result, header | {"image_size": profile.data.image_size, "workers": profile.data.workers} | found)
    for name, row in found.items():
        print(f"{name}: {row['images a second']} images/s, batch {row['batch']}, {row['seconds a step']} s a step")
        for part, share in row["share of a step"].items():
            print(f"    {100 * share:5.1f} %  {part}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
