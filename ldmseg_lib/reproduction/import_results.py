"""Results computed elsewhere, on a cluster or by somebody else: imported into a run folder if their keys are equal."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core import files
from ..core.errors import InputError, StageError
from ..core.machine import StageLock
from .stage_keys import STAGES, Key, differences, read_result, sync


def import_results(source: str | Path, run_dir: Path, keys: Mapping[str, Key]) -> tuple[list[str], list[str]]:
    """Copy into `run_dir` what `source` has finished with our keys.

    Args:
        source: a run folder, or the folder of one stage in it.
        run_dir: ours.
        keys: of all stages, as our settings, sources and data make them.

    Returns:
        One sentence for each stage that was imported or is here already, and one for each whose key differs.

    Raises:
        StageError: `source` holds no result.
    """
    source, imported, refused = Path(source), [], []
    folders = [source] if (source / "result.json").exists() else [source / name for name in STAGES]
    for folder in folders:
        if not (folder / "result.json").exists():
            continue
        try:
            record = _checked_record(folder)
            name = record["stage"]
            ours = read_result(run_dir, name)
            if record["key"] != keys[name].digest:
                causes = "; ".join(differences(STAGES[name], keys[name], record))
                refused.append(f"{name}: {folder} is another result ({causes})")
            elif ours is not None and ours.get("key") == record["key"]:
                imported.append(f"{name}: is finished here already")
            else:
                _import(folder, run_dir, name, keys[name])
                imported.append(
                    f"{name}: imported from {folder} (computed on {record.get('device')}, {record.get('date')})"
                )
        except InputError as error:
            refused.append(f"{folder.name}: {error}")
    if not imported and not refused:
        raise StageError(
            f"{source}: no result in it; give a run folder, or the folder of one stage with its result.json"
        )
    return imported, refused


def _checked_record(folder: Path) -> dict[str, Any]:
    """The record, once it is sure that its key is made of what it says, and that the folder holds only files."""
    record = files.read_json(folder / "result.json")
    if not isinstance(record, dict) or record.get("stage") not in STAGES:
        raise StageError(f"{folder / 'result.json'}: not the record of a stage")
    mark = Key(files.read_json(folder / "key.json"))
    if not isinstance(mark.ingredients, dict) or mark.digest != record.get("key"):
        raise StageError(f"{folder}: its result.json and its key.json are of different computations; copy it again")
    for place, _, names in os.walk(folder):
        for name in (place, *(os.path.join(place, name) for name in names)):
            if os.path.islink(name):
                raise StageError(f"{name}: a symbolic link; copy the files themselves (rsync -L)")
    return record


def _import(folder: Path, run_dir: Path, name: str, key: Key) -> None:
    """Copy aside, then rename; what stood there moves to superseded/."""
    lock = StageLock(run_dir / "keys" / f"{name}.lock")
    lock.acquire(f"{name} is at work in {run_dir} in another process; waiting until that one ends")
    try:
        target, aside = run_dir / name, run_dir / f".importing-{name}"
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(folder, aside)
        if target.is_dir() and any(target.iterdir()):
            old = run_dir / "superseded" / f"{name}-before-{key.digest[:12]}"
            shutil.rmtree(old, ignore_errors=True)
            old.parent.mkdir(exist_ok=True)
            target.rename(old)
        elif target.is_dir():
            target.rmdir()
        aside.rename(target)
        sync(run_dir, name, key)
    finally:
        lock.release()
