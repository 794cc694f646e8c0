"""Batch systems: the workflow under Snakemake's executors, with stand-ins for the commands that submit jobs."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ldmseg_lib.files import read_json
from tests.test_snakefile import FIRST, QUIETLY, ROOT, SECOND, checkout, environment, snakemake

__all__ = ["checkout"]

SUBMIT = """#!/bin/sh
# as a batch system: takes a script, runs it apart from its caller, says a job number
echo "$@" >> "$(dirname "$0")/submitted"
sh "$1" > /dev/null 2>> "$(dirname "$0")/said" &
echo "$!"
"""


@pytest.fixture
def submit(tmp_path: Path) -> Path:
    """A stand-in for a batch system's submit command."""
    command = tmp_path / "submit"
    command.write_text(SUBMIT)
    command.chmod(0o755)
    return command


@pytest.mark.slow
def test_a_batch_systems_jobs_do_what_a_local_run_does(checkout: Path, submit: Path) -> None:
    run = checkout / "on a cluster"
    done = snakemake(
        checkout,
        "--executor",
        "cluster-generic",
        "--cluster-generic-submit-cmd",
        str(submit),
        "--jobs",
        "2",
        "--latency-wait",
        "20",
        "--config",
        f"run_dir={run}",
    )
    assert done.returncode == 0, done.stderr
    for name in (FIRST, SECOND):
        assert read_json(run / name / "result.json")["metrics"]["reconstruction"]["pq"] == 0.5
    assert len((submit.parent / "submitted").read_text().splitlines()) >= 2
    assert (run / "tables" / "ours_and_paper.md").exists()


def test_the_slurm_profile_asks_for_what_each_stage_needs(checkout: Path) -> None:
    """Rendered by a dry run: the first stage needs no GPU, a training all of a machine."""
    profile = ["--profile", str(ROOT / "slurm"), "--dry-run"]
    done = snakemake(checkout, *profile, "--config", f"run_dir={checkout / 'slurm'}", "gpus=8")
    assert done.returncode == 0, done.stderr
    text = done.stdout + done.stderr
    resources = {}
    for name in (FIRST, SECOND):
        block = text.partition(f": {name}\n")[2].partition("\n\n")[0]
        (line,) = [line for line in block.splitlines() if "resources:" in line]
        resources[name] = dict(part.strip().partition("=")[::2] for part in line.partition("resources:")[2].split(","))
    assert resources[FIRST].get("gpu", "0") == "0" and resources[SECOND]["gpu"] == "8"
    assert resources[SECOND]["mem_mb"] == "64000" and int(resources[SECOND]["runtime"]) >= 1440


def test_the_slurm_profile_retries_what_was_preempted() -> None:
    settings = yaml.safe_load((ROOT / "slurm" / "config.yaml").read_text())
    assert settings["executor"] == "slurm" and settings["slurm-requeue"] and settings["retries"] >= 3
    assert "--signal=TERM" in settings["default-resources"]["slurm_extra"]


def test_of_two_reproductions_in_one_folder_the_second_waits(checkout: Path) -> None:
    run = checkout / "twice"
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--directory", str(checkout)]
    command += ["--cores", "1", "--rerun-triggers", "mtime", "--rerun-incomplete", "--nolock", *QUIETLY]
    command += ["--config", f"run_dir={run}"]
    settings = {"cwd": checkout, "env": environment(checkout), "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    both = [subprocess.Popen(command, text=True, **settings) for _ in range(2)]
    said = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("another reproduction is at work" in text for text in said) == 1
    assert sum(f"computed {SECOND}" in text for text in said) == 1
    for name in (FIRST, SECOND):
        assert read_json(run / name / "result.json")["metrics"]["reconstruction"]["pq"] == 0.5
