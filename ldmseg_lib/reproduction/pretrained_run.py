"""A run folder that borrows the ready model, so that notebooks 10 to 12 have something to show before any training.

It is a folder of its own (runs/demo-ready beside runs/demo), marked as such in its run.json: a reproduction refuses it,
and nothing of it is ever published.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..core import files
from ..core.errors import InputError
from ..core.machine import device_name, package_versions
from ..core.profiles import Profile
from ..experiments.records import READY
from ..pipeline.pretrained import embedded_folder
from .stage_keys import Key

_NOTE = "Weights: the ready model of the embedded scenes, whose card says its data and budget; this run trained none."
_MODEL, _AUTOENCODER, _DATA = "04_diffusion", "02_autoencoder", "01_dataset"


def can_borrow(run_dir: Path) -> bool:
    """Whether `run_dir` has no trained model, and this installation a ready one."""
    if any((run_dir / name / part).exists() for name in (_AUTOENCODER, _MODEL) for part in ("result.json", "key.json")):
        return False
    try:
        embedded_folder()
    except InputError:
        return False
    return True


def borrow_ready_model(run_dir: Path, profile: Profile, seed: int, keys: Mapping[str, Key]) -> Path:
    """Make the run folder <run_dir>-ready: scenes drawn as notebook 01 would, and the ready model as 02's and 04's.

    Returns:
        The folder; what was made there before is kept.
    """
    from ..data.scenes.dataset import write_dataset

    source, borrowed = embedded_folder(), run_dir.with_name(f"{run_dir.name}-ready")
    print(
        f"{run_dir} holds no trained model yet; in its place stands the ready model of the embedded scenes ({borrowed})"
    )
    files.write_json(borrowed / "run.json", {"profile": profile.name, "seed": seed, "ready": True})
    data = profile.data
    write_dataset(
        borrowed / _DATA / "data",
        size=data.image_size,
        train_scenes=data.train_scenes,
        val_scenes=data.val_scenes,
        min_things=data.min_things,
        max_things=data.max_things,
    )
    for name, part, target in ((_AUTOENCODER, source / "autoencoder", "autoencoder"), (_MODEL, source, "pipeline")):
        shutil.rmtree(borrowed / name / target, ignore_errors=True)
        shutil.copytree(part, borrowed / name / target)
    for name in (_DATA, _AUTOENCODER, _MODEL):
        record = _record(profile, keys[name])
        files.write_json(borrowed / name / "key.json", keys[name].ingredients)
        files.write_json(borrowed / name / "result.json", record)
    return borrowed


def _record(profile: Profile, key: Key) -> dict[str, Any]:
    data = profile.data
    return {
        **key.ingredients,
        "key": key.digest,
        "profile": profile.name,
        "parameters": json.loads(json.dumps(dataclasses.asdict(profile))),
        "metrics": {
            "provenance": [f"Data: embedded scenes at {data.image_size} px, {data.val_scenes} held out"],
            "notes": [_NOTE],
        },
        "weights": READY,
        "versions": package_versions(),
        "device": device_name(),
        "seconds": 0.0,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
