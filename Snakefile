"""Every notebook of a run, each by papermill in a process of its own, then the tables and figures.

    snakemake --cores 1 --rerun-triggers mtime --config profile=demo seed=0

Configuration: profile, seed, run_dir, data_root, overrides ("a.b=1,c=2"), notebooks ("05,03": those and what they need),
gpus (of a machine, 1 unless said: what a batch system is asked for trainings that use all of them).
The key files below change only when a stage's parameters, sources or inputs do, so their dates decide what runs.
"""

import os
import shlex
import sys

from snakemake.exceptions import WorkflowError

from ldmseg_lib.core import paths
from ldmseg_lib.core.errors import InputError
from ldmseg_lib.core.machine import StageLock
from ldmseg_lib.reproduction.stage_keys import STAGES, check_run_folder, chosen_stages, stage_keys, sync
from ldmseg_lib.reproduction.stages import resolve

SETTINGS = {"profile": "demo", "seed": 0, "run_dir": None, "data_root": None, "overrides": None}
OTHERS = ("notebooks", "gpus")

try:
    unknown = sorted(set(config) - {*SETTINGS, *OTHERS})
    if unknown:
        raise InputError(f"unknown setting {unknown[0]!r}; there are {', '.join([*SETTINGS, *OTHERS])}")
    settings = SETTINGS | {name: value for name, value in config.items() if name in SETTINGS}
    # --config reads values as YAML, where the notebook "05" is the number 5 and a folder can be a number too
    settings |= {name: str(value) for name, value in settings.items() if name != "seed" and value is not None}
    notebooks = config.get("notebooks") or ""
    notebooks = f"{notebooks:02}" if isinstance(notebooks, int) else str(notebooks)
    if settings["profile"].endswith((".yaml", ".yml")):
        settings["profile"] = os.path.abspath(settings["profile"])  # the notebooks run in their own folder
    profile, run_dir, data_root = resolve(**settings)
    chosen = chosen_stages(notebooks, profile)
    keys = stage_keys(profile, seed=settings["seed"], data_root=data_root)
    check_run_folder(run_dir, profile.name, settings["seed"])
    if workflow.is_main_process and not workflow.dryrun:
        # of two in one run folder, each would remove and miss the other's key files; jobs are processes of their own
        lock = StageLock(run_dir / "keys" / "reproduction.lock")
        lock.acquire(f"another reproduction is at work in {run_dir}; waiting until that one ends")
    for name in chosen:
        sync(run_dir, name, keys[name])
except InputError as error:
    raise WorkflowError(str(error)) from None

RUN = str(run_dir)
PARAMETERS = {"profile": settings["profile"], "run_dir": RUN, "data_root": data_root, "overrides": settings["overrides"]}
DONE = [f"{RUN}/keys/{name}.done" for name in chosen]
GPUS = {"none": 0, "one": 1, "all": int(config.get("gpus") or 1)}
GIVEN = " ".join(f"-r {name} {shlex.quote(str(value))}" for name, value in PARAMETERS.items() if value)


wildcard_constraints:
    stage="|".join(chosen) or "none",


rule all:
    input:
        # named here too, because Snakemake lets a lost file be while what was made of it is there
        DONE,
        f"{RUN}/keys/published.done",


rule notebook:
    input:
        notebook=ancient(f"{paths.NOTEBOOKS}/{{stage}}.ipynb"),
        key=f"{RUN}/keys/{{stage}}.key",
        # their keys are part of this key, so their dates say nothing more
        needed=lambda wildcards: [ancient(f"{RUN}/keys/{name}.done") for name in keys[wildcards.stage].ingredients["inputs"] if name in chosen],
    output:
        f"{RUN}/keys/{{stage}}.done",
    log:
        f"{RUN}/notebooks/{{stage}}.ipynb",
    params:
        python=sys.executable,
        given=GIVEN,
        seed=settings["seed"],
        folder=str(paths.NOTEBOOKS),
    resources:
        gpu=lambda wildcards: GPUS[STAGES[wildcards.stage].gpus],
    message:
        "{wildcards.stage}"
    shell:
        # Snakemake allots one thread to a job; numerical libraries are to use every core
        "env -u OMP_NUM_THREADS -u MKL_NUM_THREADS -u OPENBLAS_NUM_THREADS {params.python:q} -m papermill {input.notebook:q} {log:q} --engine terminal --no-progress-bar --log-level WARNING"
        " -k python3 -l python --cwd {params.folder:q} -p seed {params.seed} {params.given}"
        " || {{ echo 'The executed notebook, with its error: '{log:q} >&2; exit 1; }}"


rule publish:
    input:
        DONE,
        f"{paths.PACKAGE}/reproduction/results.py",
    output:
        touch(f"{RUN}/keys/published.done"),
    params:
        python=sys.executable,
        run=RUN,
    message:
        "tables and figures"
    shell:
        "{params.python:q} -m ldmseg_lib.reproduction publish {params.run:q}"
