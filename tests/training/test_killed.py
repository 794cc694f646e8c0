"""Killed at three moments and started again, a training ends with the weights of an unbroken one."""

import subprocess
import sys
from pathlib import Path

import torch

from ldmseg_lib.files import write_json
from ldmseg_lib.pipeline import LDMSegPipeline


def test_a_killed_training_ends_with_the_same_weights(smoke_overrides, smoke_data, smoke_run, tmp_path):
    write_json(tmp_path / "overrides.json", smoke_overrides)
    autoencoder = smoke_run.folder / "autoencoder" / "autoencoder"
    command = [Path(__file__).with_name("killed.py"), tmp_path / "overrides.json", smoke_data, autoencoder]
    result = subprocess.run([sys.executable, *command, tmp_path / "run"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    for name in ("pipeline", "pipeline_last"):
        found = LDMSegPipeline.from_pretrained(tmp_path / "run" / name)
        expected = LDMSegPipeline.from_pretrained(smoke_run.folder / "diffusion" / name)
        for part in ("denoiser", "image_encoder", "autoencoder"):
            weights = getattr(expected, part).state_dict()
            for key, value in getattr(found, part).state_dict().items():
                assert torch.equal(value, weights[key]), (name, part, key)
    metrics = [
        (folder / "metrics.jsonl").read_text().splitlines()
        for folder in (tmp_path / "run", smoke_run.folder / "diffusion")
    ]
    assert len(metrics[0]) == len(metrics[1]) == 6
