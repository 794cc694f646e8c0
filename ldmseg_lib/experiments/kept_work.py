"""Finished work kept by key: a crash, or a change of what is done with a training, costs no training."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import files

_RECORD = "finished.json"


@dataclass(frozen=True)
class KeptWork:
    """A finished piece of work: its folder, its key (64 hex digits), and what it returned."""

    folder: Path
    key: str
    record: dict[str, Any]


def keep_work(
    root: str | Path,
    name: str,
    *,
    ingredients: Mapping[str, Any],
    sources: Mapping[str, str],
    work: Callable[[Path], Mapping[str, Any]],
) -> KeptWork:
    """The work with these ingredients: the finished one in `root`, else `work` in a folder of its own.

    The key is made of the ingredients and of the sources, not of the name: two rows of a table that are trained alike
    share one training. Work that was interrupted goes on in its folder, if it can.

    Args:
        root: of all kept work of a run.
        name: begins the folder's name, for people.
        ingredients: everything that decides what comes out, as JSON values: settings, seed, keys of data and weights.
        sources: of what works, as `stage_keys.computing_sources` gives them; taken once for all work of a process,
            whose modules stay as they were when it began.
        work: writes into the folder it is given and returns JSON values to keep.
    """
    content = {"ingredients": _plain(ingredients), "sources": dict(sources)}
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    finished = sorted(Path(root).glob(f"*-{key[:12]}/{_RECORD}"))
    folder = finished[0].parent if finished else Path(root) / f"{name}-{key[:12]}"
    if not finished:
        record = _plain(work(folder))
        files.write_json(folder / _RECORD, {"key": key, **content, "record": record})
        # what a training would go on from is several times larger than what it made
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return KeptWork(folder, key, files.read_json(folder / _RECORD)["record"])


def _plain(value: Any) -> Any:
    """`value` as it comes back from JSON."""
    return json.loads(json.dumps(value))
