"""Results cached on disk by key: neither a crash nor a changed table repeats a finished training."""

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
class CachedResult:
    """A finished computation: its folder, its key (64 hex digits), and what it returned."""

    folder: Path
    key: str
    record: dict[str, Any]


def cached_result(
    root: str | Path,
    name: str,
    *,
    ingredients: Mapping[str, Any],
    sources: Mapping[str, str],
    work: Callable[[Path], Mapping[str, Any]],
) -> CachedResult:
    """The cached result with these ingredients; where there is none, `work` computes it in a folder of its own.

    The key hashes ingredients and sources, not the name: two rows of a table with equal trainings share one. An
    interrupted computation resumes in its folder, if it can.

    Args:
        root: the cache's folder.
        name: prefix of the result's folder, for readability.
        ingredients: everything that determines the result, as JSON values: settings, seed, keys of data and weights.
        sources: source hashes of the computation, as `core.sources.computing_sources` returns them; computed once a
            process, whose modules do not change after import.
        work: writes into the folder that it is given and returns JSON values to cache.
    """
    content = json.loads(json.dumps({"ingredients": ingredients, "sources": dict(sources)}))
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    finished = sorted(Path(root).glob(f"*-{key[:12]}/{_RECORD}"))
    folder = finished[0].parent if finished else Path(root) / f"{name}-{key[:12]}"
    if not finished:
        files.write_json(folder / _RECORD, {"key": key, **content, "record": work(folder)})
        # checkpoints are several times larger than the result
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return CachedResult(folder, key, files.read_json(folder / _RECORD)["record"])
