"""The registry of the notebooks, and the key of each: what decides whether a finished result still stands.

A key is the SHA-256 of the stage's parameters, the seed, the identity of a data folder given from outside, the sources
of what it computes with (the notebook's cells that call `compute`, and the modules that it imports), and the keys of
its inputs. Prose, plots and tables are not among them. Snakemake gets the key as a small file whose date changes with
its content alone (`sync`).
"""

import dataclasses
import difflib
import hashlib
import json
import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..core import files, paths
from ..core.errors import InputError, StageError
from ..core.profiles import Profile
from ..core.sources import NOT_COMPUTING, computing_sources, effective_settings, notebook_sources


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One notebook: notebooks/<name>.ipynb makes <run folder>/<name>/result.json."""

    name: str
    makes: str  # in words, for messages
    inputs: tuple[str, ...] = ()  # stages whose files it reads
    spared: Mapping[str, str] = field(default_factory=dict)  # inputs not needed where this setting names a source
    sections: tuple[str, ...] = ()  # sections of the profile, or single settings, that its computation reads
    modules: tuple[str, ...] = ()  # modules in its key beside those that the notebook imports to compute with
    gathers: bool = False  # takes of its inputs those that are finished, and asks for none
    optional: bool = False  # runs when asked for by name, not in a whole reproduction
    uses_pretrained: bool = False  # before any training, its notebook uses the pretrained model (`pretrained_run`)
    gpus: Literal["none", "one", "all"] = "one"  # what a batch system should give it


def _registry(*stages: Stage, last: Stage) -> dict[str, Stage]:
    everything = tuple(stage.name for stage in stages if not stage.optional)
    return {stage.name: stage for stage in (*stages, dataclasses.replace(last, inputs=everything, gathers=True))}


_MODEL = ("data", "autoencoder", "denoiser", "image_encoder", "diffusion")

STAGES = _registry(
    Stage(
        name="01_dataset",
        makes="the data folder",
        sections=("data",),
        gpus="none",
    ),
    Stage(
        name="02_autoencoder",
        makes="the mask autoencoder",
        inputs=("01_dataset",),
        sections=("data", "autoencoder", "evaluation.threshold", "evaluation.min_area"),
        gpus="all",
    ),
    Stage(
        name="03_encodings",
        makes="the autoencoders of the encodings compared",
        inputs=("01_dataset",),
        sections=("data", "encodings"),
    ),
    Stage(
        name="04_diffusion",
        makes="the latent diffusion model",
        inputs=("01_dataset", "02_autoencoder"),
        sections=_MODEL,
        gpus="all",
    ),
    Stage(
        name="05_panoptic_evaluation",
        makes="panoptic quality and mIoU",
        inputs=("01_dataset", "02_autoencoder", "04_diffusion"),
        sections=("data", "evaluation"),
    ),
    Stage(
        name="06_denoising_steps",
        makes="quality and time by the number of denoising steps",
        inputs=("01_dataset", "02_autoencoder", "04_diffusion"),
        sections=("data", "evaluation", "denoising_steps"),
    ),
    Stage(
        name="07_components",
        makes="the component analysis",
        inputs=("01_dataset",),
        sections=("data", "components", "evaluation.threshold"),
    ),
    Stage(
        name="08_multitask",
        makes="a model of instance, semantic and depth",
        inputs=("01_dataset", "02_autoencoder", "04_diffusion"),
        sections=(*_MODEL, "evaluation", "multitask"),
    ),
    Stage(
        name="09_mask2former_baseline",
        makes="the Mask2Former baselines",
        inputs=("01_dataset", "02_autoencoder", "04_diffusion", "05_panoptic_evaluation", "07_components"),
        spared={"07_components": "mask2former.self_distilled.pretrained"},
        sections=("data", "evaluation", "mask2former"),
    ),
    Stage(
        name="10_mask_inpainting",
        uses_pretrained=True,
        makes="panoptic quality of inpainted masks",
        inputs=("01_dataset", "02_autoencoder", "04_diffusion"),
        sections=("data", "evaluation.threshold", "evaluation.min_area", "inpainting"),
    ),
    Stage(
        name="11_mask_editor",
        uses_pretrained=True,
        makes="the mask editor's record",
        inputs=("01_dataset", "02_autoencoder", "04_diffusion"),
        sections=("data",),
    ),
    Stage(
        name="12_few_steps",
        uses_pretrained=True,
        makes="the distilled model and the agreement of samples",
        inputs=("01_dataset", "02_autoencoder", "04_diffusion"),
        sections=(*_MODEL, "evaluation", "consistency"),
        modules=("pipeline.segment_colors",),
    ),
    Stage(
        name="13_own_dataset",
        makes="a model of one's own folder",
        sections=(*_MODEL, "evaluation", "own_dataset"),
        optional=True,
    ),
    last=Stage(
        name="14_paper_and_ours",
        makes="the tables beside the paper's",
        gpus="none",
        modules=("reproduction.results", "experiments.supplement", "reproduction.tables"),
    ),
)


@dataclass(frozen=True)
class Key:
    """The key of one stage and what went into it."""

    ingredients: dict[str, Any]  # stage, seed, parameters, data, sources, inputs: JSON values

    @property
    def digest(self) -> str:
        """64 hex digits."""
        return hashlib.sha256(json.dumps(self.ingredients, sort_keys=True).encode()).hexdigest()


def find_stage(name: str) -> Stage:
    """The stage `name`; its beginning is enough when only one begins so ("05").

    Raises:
        StageError: unknown, with the nearest one named.
    """
    matches = [STAGES[name]] if name in STAGES else [s for s in STAGES.values() if name and s.name.startswith(name)]
    if len(matches) != 1:
        near = difflib.get_close_matches(name, STAGES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(STAGES)}"
        raise StageError(f"no notebook {name!r}; {hint}")
    return matches[0]


def needed_inputs(stage: Stage, profile: Profile | None = None) -> tuple[str, ...]:
    """The inputs of `stage` that a run of `profile` needs; None: that any profile could need."""

    def is_spared(name: str) -> bool:
        setting = stage.spared.get(name)
        return profile is not None and setting is not None and operator.attrgetter(setting)(profile) is not None

    return tuple(name for name in stage.inputs if not is_spared(name))


def ancestors(name: str, profile: Profile | None = None) -> list[str]:
    """All stages that `name` needs, directly or not, in the registry's order; `profile` as for `needed_inputs`."""
    needed = set(needed_inputs(find_stage(name), profile))
    for other in reversed(STAGES):
        if other in needed:
            needed |= set(needed_inputs(STAGES[other], profile))
    return [other for other in STAGES if other in needed]


def chosen_stages(notebooks: str = "", profile: Profile | None = None) -> list[str]:
    """The stages of a reproduction: those of `notebooks` ("05,07") or all but the optional, and what they need.

    A stage whose notebook is not in the checkout is left out.
    """
    present = [name for name in STAGES if (paths.NOTEBOOKS / f"{name}.ipynb").exists()]
    asked = [find_stage(part.strip()).name for part in notebooks.split(",") if part.strip()]
    chosen = asked or [name for name in present if not STAGES[name].optional]
    needed = {other for name in chosen for other in (name, *([] if STAGES[name].gathers else ancestors(name, profile)))}
    return [name for name in present if name in needed]


def stage_keys(profile: Profile, *, seed: int = 0, data_root: str | Path | None = None) -> dict[str, Key]:
    """The keys of all stages, in the registry's order.

    Args:
        profile: the settings, overrides included.
        seed: of the run.
        data_root: COCO-panoptic folder used in place of the embedded data set.
    """
    settings = json.loads(json.dumps(dataclasses.asdict(profile)))
    data = None if data_root is None else data_identity(data_root)
    keys: dict[str, Key] = {}
    for stage in STAGES.values():
        keys[stage.name] = Key(
            {
                "stage": stage.name,
                "seed": seed,
                "parameters": stage_parameters(stage, settings),
                # what reads the folder after the first notebook has that notebook among its inputs
                "data": None if stage.inputs else data,
                "sources": _sources(stage),
                "inputs": {name: keys[name].digest for name in needed_inputs(stage, profile)},
            }
        )
    return keys


def _sources(stage: Stage) -> dict[str, str]:
    notebook = paths.NOTEBOOKS / f"{stage.name}.ipynb"
    found = notebook_sources(notebook, without=NOT_COMPUTING) if notebook.exists() else {}
    return found | computing_sources(stage.modules)


def stage_key(name: str, profile: Profile, *, seed: int = 0, data_root: str | Path | None = None) -> str:
    """The key of the stage `name` as 64 hex digits."""
    return stage_keys(profile, seed=seed, data_root=data_root)[find_stage(name).name].digest


def stage_parameters(stage: Stage, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `settings` (a profile as a dict) on which the results of `stage` depend."""
    parameters: dict[str, Any] = {}
    for section in stage.sections:
        name, _, setting = section.partition(".")
        if name in settings:
            part = {setting: settings[name].get(setting)} if setting else settings[name]
            parameters[name] = parameters.get(name, {}) | effective_settings(part)
    return parameters


def data_identity(data_root: str | Path) -> dict[str, Any]:
    """What tells one data folder from another, or from itself after an edit: its path, its JSONs' sizes and dates."""
    root = Path(data_root)
    if not root.is_dir():
        raise StageError(f"data_root {root}: no such folder; give a COCO-panoptic folder, or nothing (embedded data)")
    annotations = sorted([*root.glob("*.json"), *root.glob("annotations/*.json")])
    stats = {str(file.relative_to(root)): file.stat() for file in annotations}
    # relative to the project, so that a checkout elsewhere has the same keys and a published record names no machine
    path = Path(os.path.relpath(root.resolve(), paths.ROOT)).as_posix()
    return {"path": path, "files": {name: [s.st_size, s.st_mtime_ns] for name, s in stats.items()}}


def read_result(run_dir: Path, name: str) -> dict[str, Any] | None:
    """The result record of the stage `name` in `run_dir`, or None when the stage is not finished."""
    file = run_dir / name / "result.json"
    return files.read_json(file) if file.exists() else None


def differences(stage: Stage, key: Key, record: Mapping[str, Any]) -> list[str]:
    """Why `record`, a result or key file of `stage`, does not fit `key`: one short phrase a cause."""
    now, causes = key.ingredients, []
    if record.get("seed") != now["seed"]:
        causes.append(f"seed {record.get('seed')} -> {now['seed']}")
    then = flat_settings(stage_parameters(stage, record.get("parameters", {})))
    for name, value in flat_settings(now["parameters"]).items():
        if then.get(name) != value:
            causes.append(f"{name} {then.get(name)} -> {value}")
    if record.get("data") != now["data"]:
        causes.append("another data folder, or its annotations changed")
    sources = record.get("sources", {})
    for module in sorted(sources.keys() | now["sources"].keys()):
        if sources.get(module) != now["sources"].get(module):
            file = module if "/" in module else f"ldmseg_lib/{module.replace('.', '/')}.py"
            causes.append(f"{file} changed")
    inputs = record.get("inputs", {})
    causes += [f"{name} changed" for name, value in now["inputs"].items() if inputs.get(name) != value]
    return causes or ["its settings changed"]


def flat_settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flat_settings(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def check_run_folder(run_dir: Path, profile_name: str, seed: int) -> None:
    """Claim `run_dir` for a profile and seed, in its run.json.

    Raises:
        StageError: the folder belongs to a run of another profile or seed.
    """
    file, ours = run_dir / "run.json", {"profile": profile_name, "seed": seed}
    if not file.exists():
        files.write_json(file, ours)
        return
    try:
        theirs = files.read_json(file)
    except InputError as error:
        raise StageError(f"{error}; remove the file if {run_dir} is a run of profile {profile_name}") from None
    if is_pretrained_run(theirs):
        raise StageError(f"{run_dir} uses the pretrained model and trains nothing; give another run_dir")
    if theirs != ours:
        raise StageError(
            f"{run_dir} was made by profile {theirs.get('profile')} with seed {theirs.get('seed')}, not by profile "
            f"{profile_name} with seed {seed}; give another run_dir"
        )


def is_pretrained_run(mark: Mapping[str, Any]) -> bool:
    """Whether a run.json marks a folder that uses the pretrained model; older folders say "ready"."""
    return bool(mark.get("pretrained") or mark.get("ready"))


def key_file(run_dir: Path, name: str) -> Path:
    """Snakemake's input for the stage `name`: rewritten only when the key changes."""
    return run_dir / "keys" / f"{name}.key"


def done_file(run_dir: Path, name: str) -> Path:
    """Snakemake's output for the stage `name`; not result.json, as Snakemake removes outputs before it runs a job."""
    return run_dir / "keys" / f"{name}.done"


def sync(run_dir: Path, name: str, key: Key) -> bool:
    """Make dates say what keys say: `done_file` exists, newer than `key_file`, just when the result is that of `key`.

    Returns:
        Whether the stage is finished with `key`.
    """
    written, done = key_file(run_dir, name), done_file(run_dir, name)
    text = json.dumps(key.ingredients, indent=2) + "\n"
    if not written.exists() or written.read_text() != text:
        files.write_text(written, text)
    record = read_result(run_dir, name)
    if record is None or record.get("key") != key.digest:
        done.unlink(missing_ok=True)
        return False
    if not done.exists() or done.stat().st_mtime_ns < written.stat().st_mtime_ns:
        done.touch()
    return True
