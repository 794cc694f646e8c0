"""Kill a training (SIGKILL) again and again, let it go on each time, and compare its end with an unbroken one's.

    python benchmarks/kill_and_resume.py [--kills 5] [--profile smoke]

On a CPU the weights are equal to the bit. On a GPU atomic additions and the choice of kernels may change the last bits
of any two runs: the largest difference stands beside that of two unbroken runs.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from ldmseg_lib.core.files import write_json
from ldmseg_lib.core.machine import device_name, package_versions
from ldmseg_lib.core.paths import ROOT
from ldmseg_lib.core.profiles import Profile
from ldmseg_lib.data.scenes.dataset import write_dataset
from ldmseg_lib.data.splits import training_split
from ldmseg_lib.training.autoencoder import train_autoencoder

STEPS, EVERY = 600, 20


def loaded(name: str) -> Profile:
    """The profile with a checkpoint every few steps."""
    every = {"steps": STEPS, "checkpoint_every": EVERY, "log_every": EVERY}
    return Profile.load(name, {f"autoencoder.training.{key}": value for key, value in every.items()})


def train(name: str, data: str, folder: str) -> None:
    """What is killed."""
    profile = loaded(name)
    train_autoencoder(profile, training_split(profile, data), folder)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The saved autoencoder's."""
    return load_file(next((folder / "autoencoder").glob("*.safetensors")))


def difference(one: Path, other: Path) -> float:
    """The largest between any two weights."""
    first, second = weights(one), weights(other)
    return max((first[name].float() - second[name].float()).abs().max().item() for name in first)


def main() -> None:
    """Train unbroken twice and killed once, print, and write benchmarks/results/kill_and_resume.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--worker", nargs=2, metavar=("DATA", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        train(options.profile, *options.worker)
        return
    with tempfile.TemporaryDirectory() as place:
        root, data = Path(place), loaded(options.profile).data
        counts = {name: getattr(data, name) for name in ("train_scenes", "val_scenes", "min_things", "max_things")}
        scenes = write_dataset(root / "data", size=data.image_size, **counts)

        def worker(folder: Path) -> subprocess.Popen:
            command = [sys.executable, __file__, "--profile", options.profile, "--worker", str(scenes), str(folder)]
            return subprocess.Popen(command, cwd=ROOT)

        started = time.perf_counter()
        for name in ("unbroken", "again"):
            assert worker(root / name).wait() == 0
        seconds, moments, kills = (time.perf_counter() - started) / 2, random.Random(0), []
        for _ in range(options.kills):
            process = worker(root / "killed")
            time.sleep(moments.uniform(0.3, 0.9) * seconds)
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills.append(sorted(path.name for path in (root / "killed" / "checkpoints").glob("step-*")))
        assert worker(root / "killed").wait() == 0
        record = {
            "device": device_name() if not torch.cuda.is_available() else torch.cuda.get_device_name(0),
            "versions": package_versions(),
            "profile": options.profile,
            "steps": STEPS,
            "checkpoints_at_each_kill": kills,
            "difference_killed": difference(root / "unbroken", root / "killed"),
            "difference_unbroken": difference(root / "unbroken", root / "again"),
        }
    print(json.dumps(record, indent=2))
    write_json(ROOT / "benchmarks" / "results" / "kill_and_resume.json", record)


if __name__ == "__main__":
    main()
