"""What the first and the last cell of every notebook call: open a stage, find its inputs, record its result.

stage = open_stage("04_diffusion", profile=profile, run_dir=run_dir, seed=seed, overrides=overrides)
metrics = stage.compute(train_diffusion)  # or loads what an earlier run with the same key computed
stage.finish()
"""

import ast
import dataclasses
import difflib
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..core import files, paths
from ..core.errors import StageError
from ..core.machine import StageLock, device_name, package_versions, peak_memory
from ..core.profiles import Profile
from .pretrained_run import can_use_pretrained, make_pretrained_run
from .stage_keys import (
    STAGES,
    Key,
    Stage,
    ancestors,
    check_run_folder,
    differences,
    find_stage,
    read_result,
    stage_key,
    stage_keys,
    sync,
)

__all__ = ["PARAMETERS", "STAGES", "Stage", "StageRun", "open_stage", "stage_key", "stage_keys"]

# What `compute` returned, until `finish` puts it into result.json: a figure that fails costs no computation.
_COMPUTED = "computed.json"

PARAMETERS = ("profile", "data_root", "run_dir", "seed", "overrides")


class StageRun:
    """One notebook at work in a run folder; made by `open_stage`.

    Attributes:
        name: of the stage, which is the notebook's.
        profile: the settings, overrides included.
        seed: of the run.
        run_dir: the run folder.
        folder: the stage's own folder in it; whatever lies there belongs to `key`.
        data_root: the COCO-panoptic folder: the given one, or where 01_dataset makes the embedded data set.
        key: 64 hex digits; see `stage_keys`.
        result: the finished record with this key, or None while there is none.
    """

    def __init__(
        self, stage: Stage, *, profile: Profile, seed: int, run_dir: Path, data_root: Path | None, keys: dict[str, Key]
    ):
        self.stage, self.name = stage, stage.name
        self.profile, self.seed = profile, seed
        self.run_dir, self.folder = run_dir, run_dir / stage.name
        self.data_given = data_root is not None
        self.data_root = data_root or run_dir / "01_dataset" / "data"
        self.key = keys[stage.name].digest
        self.result: dict[str, Any] | None = None
        self._keys = keys
        self._computed: tuple[dict[str, Any], float] | None = None
        self._lock = StageLock(run_dir / "keys" / f"{stage.name}.lock")
        self._lock.acquire(f"{stage.name} is at work in {run_dir} in another process; waiting until that one ends")
        self._settle()

    @property
    def lock_handle(self) -> int | None:
        """The file descriptor of the stage's lock, for a process that works on in this stage's place."""
        return self._lock.handle

    @property
    def tables(self) -> Path:
        """Folder for the run's tables."""
        return self.run_dir / "tables"

    @property
    def figures(self) -> Path:
        """Folder for the run's figures."""
        return self.run_dir / "figures"

    @property
    def device(self) -> str:
        """Where networks run: the first GPU, or the CPU."""
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    def input(self, name: str) -> Path:
        """The folder of the finished earlier stage `name`.

        Raises:
            StageError: it is not finished, or was made with other settings, sources or inputs.
        """
        needed = find_stage(name)
        if needed.name not in ancestors(self.name):
            raise StageError(f"{needed.name} is not registered as an input of {self.name}; add it in stage_keys.py")
        record = read_result(self.run_dir, needed.name)
        how = f"run notebooks/{needed.name}.ipynb with profile {self.profile.name} and this run_dir"
        if record is None:
            raise StageError(f"{self.name} needs {needed.makes}, which {self.run_dir} does not hold yet; {how}")
        key = self._keys[needed.name]
        if record.get("key") != key.digest:
            cause = "; ".join(differences(needed, key, record)[:3])
            raise StageError(f"{self.run_dir / needed.name} is stale for {self.name} ({cause}); {how}")
        return self.run_dir / needed.name

    def key_of(self, name: str) -> str:
        """The key, 64 hex digits, of any stage of this run."""
        return self._keys[find_stage(name).name].digest

    def compute(self, function: Callable[..., Mapping[str, Any]], *args: Any) -> dict[str, Any]:
        """The metrics of this stage: those of the finished result with this key, else `function(self, *args)`.

        `function` writes its files into `folder` and returns metrics: JSON values, NumPy numbers, paths. An entry
        "weights" says where the weights come from. Infinite and undefined numbers become None.
        """
        if self.result is not None:
            print(f"{self.name}: loaded the result of {self.result['date']} ({self.result['seconds']:.0f} s of work)")
            return self.result["metrics"]
        kept = self.folder / _COMPUTED
        if kept.exists():
            print(f"{self.name}: loaded what was computed before a later cell of the notebook failed")
            metrics, seconds = files.read_json(kept)
            self._computed = metrics, seconds
        else:
            start = time.perf_counter()
            metrics = _plain(function(self, *args))
            self._computed = metrics, time.perf_counter() - start
            files.write_json(kept, list(self._computed))
        return metrics

    def finish(self, metrics: Mapping[str, Any] | None = None, *, weights: str | None = None) -> None:
        """Write result.json, with `metrics` or those of `compute`, and let other processes at the stage.

        Args:
            metrics: what the result says; None: what `compute` returned.
            weights: source of the weights; None: the metrics' entry "weights".
        """
        if metrics is None and self._computed is None and self.result is None:
            raise StageError(f"{self.name} has no result: call compute, or give finish the metrics")
        if self.result is None:
            written = (self._computed or ({}, 0.0))[0] if metrics is None else _plain(metrics)
            self._write(self.record(written) | {"weights": weights or written.get("weights")})
        elif metrics is not None and _plain(metrics) != self.result["metrics"]:
            self._write(self.result | {"metrics": _plain(metrics)})
        (self.folder / _COMPUTED).unlink(missing_ok=True)
        sync(self.run_dir, self.name, self._keys[self.name])
        self._lock.release()

    def record(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """The result record that `finish` writes, with `metrics`: for tables shown before the stage is finished."""
        if self.result is not None:
            return self.result
        return {
            **self._keys[self.name].ingredients,
            "key": self.key,
            "profile": self.profile.name,
            "parameters": json.loads(json.dumps(dataclasses.asdict(self.profile))),
            "metrics": _plain(metrics),
            "weights": metrics.get("weights"),
            "versions": package_versions(),
            "device": device_name(),
            "seconds": round(self._computed[1] if self._computed else 0.0, 1),
            **peak_memory(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _write(self, record: dict[str, Any]) -> None:
        files.write_json(self.folder / "result.json", record)
        self.result = record

    def _settle(self) -> None:
        """Give `folder` to our key: what another key left moves to superseded/, and ours comes back from there."""
        mark = self.folder / "key.json"
        if self.folder.is_dir() and any(self.folder.iterdir()):
            owner = Key(files.read_json(mark)).digest if mark.exists() else "0" * 64
            if owner != self.key:
                self.folder.rename(_free(self.run_dir / "superseded" / f"{self.name}-{owner[:12]}"))
        aside = self.run_dir / "superseded" / f"{self.name}-{self.key[:12]}"
        if aside.is_dir() and not (self.folder.is_dir() and any(self.folder.iterdir())):
            if self.folder.is_dir():
                self.folder.rmdir()
            aside.rename(self.folder)
        if not mark.exists():
            files.write_json(mark, self._keys[self.name].ingredients)
        if sync(self.run_dir, self.name, self._keys[self.name]):
            self.result = read_result(self.run_dir, self.name)
        elif not self.stage.gathers:
            for needed in self._keys[self.name].ingredients["inputs"]:
                self.input(needed)


def open_stage(
    name: str,
    *,
    profile: str | Path | Profile,
    data_root: str | Path | None = None,
    run_dir: str | Path | None = None,
    seed: int = 0,
    overrides: Mapping[str, Any] | str | None = None,
) -> StageRun:
    """Open the stage `name`: check the parameters, claim the run folder, wait for other processes, settle the key.

    Args:
        name: the notebook's name, or its beginning ("05").
        profile: smoke, demo, gpu, paper, a YAML file, or a loaded profile.
        data_root: COCO-panoptic folder; None: the embedded data set.
        run_dir: where the run keeps everything; None: runs/<profile>.
        seed: of the run.
        overrides: single settings, as a mapping or as text "a.b=1,c=2".

    Raises:
        StageError: unknown notebook or injected parameter, a run folder of another profile, or an unfinished input.
        ProfileError: unknown profile or setting.
    """
    stage = find_stage(name)
    check_injected(_cell_history())
    loaded, folder, data = resolve(profile, data_root=data_root, run_dir=run_dir, seed=seed, overrides=overrides)
    keys = stage_keys(loaded, seed=seed, data_root=data)
    if stage.uses_pretrained and data is None and can_use_pretrained(folder):
        folder = make_pretrained_run(folder, loaded, seed, keys)
    else:
        check_run_folder(folder, loaded.name, seed)
    return StageRun(stage, profile=loaded, seed=seed, run_dir=folder, data_root=data, keys=keys)


def resolve(
    profile: str | Path | Profile,
    *,
    data_root: str | Path | None,
    run_dir: str | Path | None,
    seed: int,
    overrides: Mapping[str, Any] | str | None,
) -> tuple[Profile, Path, Path | None]:
    """A notebook's parameters as (profile, run folder, data folder or None); empty text counts as not given."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise StageError(f"seed must be a whole number from 0, not {seed!r}")
    if isinstance(profile, Profile) and overrides:
        raise StageError("give overrides when the profile is loaded by its name, not beside a loaded profile")
    loaded = profile if isinstance(profile, Profile) else Profile.load(profile, overrides or None)
    folder = Path(run_dir) if run_dir else paths.run_folder(loaded.name, seed)
    return loaded, folder.resolve(), Path(data_root).resolve() if data_root else None


def check_injected(cells: Iterable[str]) -> None:
    """Raise StageError when the cell that papermill injected sets a name that is no parameter of the notebooks.

    Args:
        cells: sources of the cells run so far. Papermill only warns of unknown names, in a place where nobody looks.
    """
    for cell in cells:
        if cell.lstrip().partition("\n")[0].strip() != "# Parameters":
            continue
        for node in ast.walk(ast.parse(cell)):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id not in PARAMETERS:
                near = difflib.get_close_matches(node.id, PARAMETERS, n=1)
                hint = f"did you mean {near[0]!r}?" if near else "settings of a profile go into overrides"
                raise StageError(f"unknown notebook parameter {node.id!r}; {hint} (there are {', '.join(PARAMETERS)})")


def _cell_history() -> list[str]:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return list(shell.user_ns.get("In", [])) if shell else []


def _plain(value: Any) -> Any:
    """`value` as JSON would give it back, with NumPy numbers as numbers and undefined ones as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _free(folder: Path) -> Path:
    """`folder`, or the first of folder-2, folder-3, … that does not exist; its parent is made."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    free, number = folder, 1
    while free.exists():
        number += 1
        free = folder.with_name(f"{folder.name}-{number}")
    return free


def plan(run_dir: Path, keys: Mapping[str, Key]) -> list[tuple[str, str]]:
    """What a reproduction would do in `run_dir`: (stage, what and why), in order."""
    lines = []
    for name, key in keys.items():
        record, mark = read_result(run_dir, name), run_dir / name / "key.json"
        aside = run_dir / "superseded" / f"{name}-{key.digest[:12]}"
        if record is not None and record.get("key") == key.digest:
            text = f"is finished ({record['date']})"
        elif (aside / "result.json").exists():
            text = "loads the result that was put aside when its settings changed"
        elif record is not None:
            text = f"runs again: {'; '.join(differences(STAGES[name], key, record))}"
        elif mark.exists() and Key(files.read_json(mark)).digest == key.digest:
            text = "goes on where it stopped"
        else:
            text = "runs for the first time"
        lines.append((name, text))
    return lines
