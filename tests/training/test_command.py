"""python -m ldmseg_lib.training: trains in a notebook's place, in one process or several, and says what is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ldmseg_lib.data.scenes.dataset import write_dataset
from ldmseg_lib.data.splits import training_split
from ldmseg_lib.reproduction.stages import open_stage
from ldmseg_lib.training.autoencoder import train_autoencoder
from ldmseg_lib.training.checkpoint import CheckpointFolder

ROOT = Path(__file__).parents[2]
# At smoke's width the normalisation after it has a channel a group and takes this bias out again. Its gradient is
# rounding error, which Adam brings to full steps.
WITHOUT_EFFECT = ("autoencoder", "encoder.8.bias")


def command(*arguments: str | Path) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "ldmseg_lib.training", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def overrides(smoke_overrides) -> str:
    return ",".join(f"{key}={value}" for key, value in smoke_overrides.items())


@pytest.fixture(scope="module")
def new_run(tmp_path_factory, overrides):
    """Makes a run folder whose first notebook is finished, and says which arguments name it."""

    def make() -> list[str]:
        run = tmp_path_factory.mktemp("run")
        stage = open_stage("01_dataset", profile="smoke", run_dir=run, overrides=overrides)

        def draw(stage):
            data = stage.profile.data
            counts = {name: getattr(data, name) for name in ("train_scenes", "val_scenes", "min_things", "max_things")}
            write_dataset(stage.data_root, size=data.image_size, workers=1, progress=False, **counts)
            return {}

        stage.compute(draw)
        stage.finish()
        return ["--profile", "smoke", "--run-dir", str(run), "--overrides", overrides]

    return make


def finish_autoencoder(run: Path, overrides: str) -> None:
    """What notebook 2 does when it finds its training finished."""
    stage = open_stage("02_autoencoder", profile="smoke", run_dir=run, overrides=overrides)

    def work(stage):
        dataset = training_split(stage.profile, stage.data_root)
        visits = []
        train_autoencoder(stage.profile, dataset, stage.folder, on_log=visits.append)
        assert visits == [], "trained again"
        return {}

    stage.compute(work)
    stage.finish()


@pytest.mark.slow
def test_two_devices_train_as_one_and_the_notebook_finds_it_finished(new_run, overrides):
    """The autoencoder, then the diffusion model: with two processes the state of its training is sharded."""
    found = {}
    for devices in (1, 2):
        given = new_run()
        run = Path(given[3])
        done = command("autoencoder", *given, "--devices", str(devices))
        assert done.returncode == 0, done.stderr
        finish_autoencoder(run, overrides)
        shard = f"{overrides},diffusion.training.shard={'true' if devices == 2 else 'false'}"
        done = command("diffusion", *given[:-1], shard, "--devices", str(devices))
        assert done.returncode == 0, done.stderr
        stage = open_stage("04_diffusion", profile="smoke", run_dir=run, overrides=overrides)
        assert CheckpointFolder(stage.folder / "checkpoints").steps()[-1] == 6
        losses = [json.loads(line)["loss"] for line in (stage.folder / "metrics.jsonl").read_text().splitlines()]
        parts = {
            name: load_file(next((stage.folder / "pipeline" / name).glob("*.safetensors")))
            for name in ("autoencoder", "denoiser", "image_encoder")
        }
        found[devices] = (losses, parts)
    assert found[2][0] == pytest.approx(found[1][0], rel=1e-3)
    for part, tensors in found[1][1].items():
        for name, value in tensors.items():
            if (part, name) == WITHOUT_EFFECT:
                continue
            assert torch.allclose(found[2][1][part][name], value, atol=2e-3), (part, name)


def test_an_unfinished_input_is_named(tmp_path):
    done = command("diffusion", "--profile", "smoke", "--run-dir", tmp_path / "run")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "04_diffusion needs the data folder" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to train, or --estimate"),
        (["autoencodr"], "invalid choice: 'autoencodr'"),
        (["autoencoder", "--profile", "smok"], "did you mean 'smoke'"),
        (["autoencoder", "--profile", "smoke", "--overrides", "autoencoder.channls=[8]"], "autoencoder.channels"),
        (["autoencoder", "--profile", "smoke", "--data-root", "nowhere"], "no such folder"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(arguments, message, capsys, tmp_path, monkeypatch):
    from ldmseg_lib.training.__main__ import main

    monkeypatch.setattr("ldmseg_lib.training.__main__.signal.signal", lambda *_: None)
    if arguments[1:]:
        arguments = [*arguments, "--run-dir", str(tmp_path / "run")]
    try:
        code = main(arguments)
    except SystemExit as left:
        code = left.code
    assert code == 2 and message in capsys.readouterr().err


def test_the_help_gives_the_lines_for_torchrun_and_slurm(capsys):
    from ldmseg_lib.training.__main__ import main

    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    for part in ("torchrun --nproc-per-node 8", "torchrun --nnodes 2", "#SBATCH", "srun python -m ldmseg_lib.training"):
        assert part in said
