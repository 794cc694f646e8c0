"""Batch systems: the workflow under Snakemake's executors, with stand-ins for the commands that submit jobs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ldmseg_lib.core.files import read_json
from tests.reproduction.test_snakefile import FIRST, QUIETLY, ROOT, SECOND, checkout, environment, finished, snakemake

__all__ = ["checkout", "finished"]

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


SLURM = """#!/bin/sh
# as Slurm's commands, for a cluster where every job is lost
case "$(basename "$0")" in
    sbatch) echo "$@" | tr '\\n' ' ' >> "$(dirname "$0")/submitted"; echo >> "$(dirname "$0")/submitted"; echo 17;;
    sacct) echo "17|FAILED";;
    sacctmgr) echo us;;
    sinfo) echo a100;;
esac
"""


def test_the_slurm_profile_asks_for_what_each_stage_needs(
    checkout: Path, finished: subprocess.CompletedProcess, tmp_path: Path
) -> None:
    """As it submits them: the first stage needs no GPU, a training all of a machine."""
    for name in ("sbatch", "sacct", "sacctmgr", "sinfo", "squeue", "scontrol", "scancel"):
        (tmp_path / name).write_text(SLURM)
        (tmp_path / name).chmod(0o755)
    profile = (ROOT / "slurm" / "config.yaml").read_text()
    for setting, value in {"slurm_account": "us", "slurm_partition": "a100"}.items():
        assert f"# {setting}: NAME" in profile
        profile = profile.replace(f"# {setting}: NAME", f"{setting}: {value}")
    (tmp_path / "config.yaml").write_text(profile)
    arguments = ["--profile", str(tmp_path), "--retries", "0", "--slurm-init-seconds-before-status-checks", "1"]
    shutil.copytree(checkout / "runs" / "demo", tmp_path / "run")
    path = f"{tmp_path}:{os.environ['PATH']}"
    # a new run begins with the first stage; one with another autoencoder begins with the second
    for settings in (
        [f"run_dir={tmp_path / 'new'}"],
        [f"run_dir={tmp_path / 'run'}", "overrides=autoencoder.num_points=7"],
    ):
        done = snakemake(checkout, *arguments, "--config", "gpus=8", *settings, PATH=path)
        assert "status is: 'FAILED'" in done.stderr, done.stderr
    first, second = (line.partition("--wrap")[0] for line in (tmp_path / "submitted").read_text().splitlines())
    assert FIRST in first and SECOND in second
    for asked in (first, second):
        for part in ("-A us", "-p a100", "-t 2880", "--mem 64000", "--requeue", "--signal=TERM@300"):
            assert part in asked
    assert "--gpus" not in first and "--gpus=8" in second and "--cpus-per-gpu=8" in second


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
