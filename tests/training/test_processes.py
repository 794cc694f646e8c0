"""Trainings that are killed, and trainings of several processes, end with the weights of a plain one."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from safetensors.torch import load_file

from ldmseg_lib.core.files import read_json, write_json
from ldmseg_lib.pipeline.ldmseg import LDMSegPipeline
from ldmseg_lib.training.checkpoint import CheckpointFolder
from ldmseg_lib.training.loop import EXIT_RESUMABLE, train
from tests.training.processes import often, scores_of
from tests.training.toy import Pictures, Smoothing, collate, settings, weights

ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "tests.training.processes", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]


def test_killed_at_three_moments_it_ends_with_the_same_weights(smoke_overrides, smoke_data, smoke_run, tmp_path):
    """Between checkpoints; while the tensors of one are written; when it is whole but not yet in its place."""
    write_json(tmp_path / "overrides.json", smoke_overrides)
    autoencoder = smoke_run.folder / "autoencoder" / "autoencoder"
    run("killed", tmp_path / "overrides.json", smoke_data, autoencoder, tmp_path / "run")
    for name in ("pipeline", "pipeline_last"):
        found = LDMSegPipeline.from_pretrained(tmp_path / "run" / name)
        expected = LDMSegPipeline.from_pretrained(smoke_run.folder / "diffusion" / name)
        for part in ("denoiser", "image_encoder", "autoencoder"):
            theirs = getattr(expected, part).state_dict()
            for key, value in getattr(found, part).state_dict().items():
                assert torch.equal(value, theirs[key]), (name, part, key)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 6


@pytest.mark.slow
def test_killed_at_twenty_random_moments_it_ends_with_the_same_weights(tmp_path):
    """With a checkpoint after every step, most kills fall into the writing of one."""
    run("often_killed", "20", tmp_path)
    found = read_json(tmp_path / "found.json")
    assert found["writing"] > 0 and found["kept"] > 0
    whole = Smoothing()
    train(whole, Pictures(), often(), tmp_path / "whole", seed=0, collate=collate)
    ended = load_file(tmp_path / "end.safetensors")
    assert all(torch.equal(ended[key], value) for key, value in weights(whole).items())


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What two processes left, and a plain training's folder and weights."""
    folder = tmp_path_factory.mktemp("both")
    run("together", folder)
    plain, pictures = Smoothing(), Pictures()
    train(plain, pictures, settings(), folder / "plain", seed=0, collate=collate)
    return SimpleNamespace(folder=folder, weights=weights(plain), seen=pictures.seen)


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def close(found: dict, expected: dict) -> bool:
    return all(torch.allclose(found[key], expected[key], atol=2e-5) for key in expected)


@pytest.mark.parametrize("name", ["whole", "cut", "sharded"])
def test_two_processes_train_as_one(both, name):
    """Averaged gradients are those of the whole batch, also after a preemption, in micro-batches and with shards."""
    for rank in (0, 1):
        assert close(load_file(both.folder / f"{name}-{rank}.safetensors"), both.weights)
    losses, expected = ([entry["loss"] for entry in metrics(both.folder / which)] for which in (name, "plain"))
    assert losses == pytest.approx(expected, abs=1e-5)


def test_two_processes_share_every_epoch(both):
    """Of 8 steps of 4 pictures each sees half, and together they see what one sees, each picture once an epoch."""
    seen = [read_json(both.folder / f"whole-{rank}.json")["seen"] for rank in (0, 1)]
    assert len(seen[0]) == len(seen[1]) == 16
    assert sorted(map(tuple, seen[0] + seen[1])) == sorted(both.seen)
    assert len({*map(tuple, seen[0] + seen[1])}) == 32


def test_sharded_parameters_are_split_over_the_processes(both):
    """FSDP2 halves the first dimension of every parameter; plain training holds all of it."""
    sharded = read_json(both.folder / "sharded-0.json")["held"]
    for name, parameter in Smoothing().trained.named_parameters():
        rows = -(-parameter.shape[0] // 2)
        assert sharded[name] == [rows, *parameter.shape[1:]], name
    assert not any(read_json(both.folder / "whole-0.json")["held"].values())


def test_a_sharded_training_goes_on_without_shards(both):
    """Checkpoints hold whole tensors, so that another number of processes can go on."""
    objective, pictures = Smoothing(), Pictures()
    train(objective, pictures, settings(), both.folder / "sharded_cut", seed=0, collate=collate)
    assert 0 < len(pictures.seen) < 32 and close(weights(objective), both.weights)


def test_scores_of_two_processes_are_one_processs_to_the_bit(both):
    expected = json.loads(json.dumps(scores_of(range(11)).compute()))
    assert 0 < expected["panoptic"]["All"]["pq"] < 1
    for rank in (0, 1):
        assert read_json(both.folder / f"scores-{rank}.json") == expected


def launched(folder: Path, how: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.training.processes", "launched", str(folder), how]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_process_that_fails_ends_the_training_with_its_own_error(tmp_path):
    process = launched(tmp_path, "dying")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "RuntimeError: picture 8 is torn" in said and "error: process 1 of 2 ended first" in said
    assert CheckpointFolder(tmp_path / "run" / "checkpoints").load()[1]["step"] == 4


@pytest.mark.slow
def test_a_killed_process_ends_the_training_within_a_minute(tmp_path):
    process = launched(tmp_path, "waiting")
    wait_for(tmp_path / "on-its-way-1", process)
    (victim, *_) = [child for child in psutil.Process(process.pid).children() if child.environ()["RANK"] == "1"]
    victim.kill()
    killed = time.monotonic()
    _, said = process.communicate(timeout=300)
    assert time.monotonic() - killed < 60
    assert process.returncode == 1 and "process 1 of 2 ended first, with signal 9" in said


@pytest.mark.slow
def test_a_preempted_launcher_lets_all_save_and_says_75(tmp_path):
    process = launched(tmp_path, "waiting")
    wait_for(tmp_path / "on-its-way-1", process)
    process.terminate()
    _, said = process.communicate(timeout=300)
    assert process.returncode == EXIT_RESUMABLE, said
    assert "asked to stop; saved at step" in said
    assert CheckpointFolder(tmp_path / "run" / "checkpoints").steps()


def wait_for(file: Path, process: subprocess.Popen) -> None:
    until = time.monotonic() + 300
    while not file.exists():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.1)
