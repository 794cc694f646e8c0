"""Trainings that are killed, and trainings of several processes, end with the weights of a plain one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ldmseg_lib.files import write_json
from ldmseg_lib.pipeline import LDMSegPipeline
from ldmseg_lib.training.loop import train
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
def test_two_processes_train_as_one_and_leave_together(tmp_path):
    """Averaged gradients are those of the whole batch; when one process is preempted both save and exit with 75."""
    run("together", tmp_path)
    plain = Smoothing()
    train(plain, Pictures(), settings(), tmp_path / "plain", seed=0, collate=collate)
    expected = weights(plain)
    for name in ("whole-0", "whole-1", "cut-0", "cut-1"):
        found = load_file(tmp_path / f"{name}.safetensors")
        assert all(torch.allclose(found[key], expected[key], atol=2e-5) for key in expected), name
