"""A run folder that uses the pretrained model, for notebooks 10 to 12 before any training.

It is a folder of its own (runs/demo-pretrained beside runs/demo), marked as such in its run.json: a reproduction
refuses it, and nothing of it is ever published.
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
from ..experiments.records import PRETRAINED
from ..pipeline.pretrained import embedded_folder
from .stage_keys import Key

_NOTE = (
    "Weights: the pretrained model of the embedded scenes, whose card says its data and budget; this run trained none."
)
_MODEL, _AUTOENCODER, _DATA = "04_diffusion", "02_autoencoder", "01_dataset"


def can_use_pretrained(run_dir: Path) -> bool:
    """Whether `run_dir` has no trained model yet, and this installation has the pretrained one."""
    if any((run_dir / name / part).exists() for name in (_AUTOENCODER, _MODEL) for part in ("result.json", "key.json")):
        return False
    try:
        embedded_folder()
    except InputError:
        return False
    return True


def make_pretrained_run(run_dir: Path, profile: Profile, seed: int, keys: Mapping[str, Key]) -> Path:
    """Make the run folder <run_dir>-pretrained: scenes as of notebook 01, the pretrained model as of 02 and 04.

    Returns:
        The folder; what was made there before is kept.
    """
    from ..data.scenes.dataset import write_dataset

    source, target = embedded_folder(), run_dir.with_name(f"{run_dir.name}-pretrained")
    print(f"{run_dir} has no trained model yet; the notebook uses the pretrained one of the embedded scenes ({target})")
    files.write_json(target / "run.json", {"profile": profile.name, "seed": seed, "pretrained": True})
    data = profile.data
    write_dataset(
        target / _DATA / "data",
        size=data.image_size,
        train_scenes=data.train_scenes,
        val_scenes=data.val_scenes,
        min_things=data.min_things,
        max_things=data.max_things,
    )
    for name, part, folder in ((_AUTOENCODER, source / "autoencoder", "autoencoder"), (_MODEL, source, "pipeline")):
        shutil.rmtree(target / name / folder, ignore_errors=True)
        shutil.copytree(part, target / name / folder)
    for name in (_DATA, _AUTOENCODER, _MODEL):
        record = _record(profile, keys[name])
        files.write_json(target / name / "key.json", keys[name].ingredients)
        files.write_json(target / name / "result.json", record)
    return target


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
        "weights": PRETRAINED,
        "versions": package_versions(),
        "device": device_name(),
        "seconds": 0.0,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
