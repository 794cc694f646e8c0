"""Every folder of the project, named once."""

import os
from pathlib import Path


def _find_root() -> Path:
    """The checkout: LDMSEG_HOME, or what holds this package, or (package installed elsewhere) what holds the cwd."""
    if os.environ.get("LDMSEG_HOME"):
        return Path(os.environ["LDMSEG_HOME"]).resolve()
    package_parent = Path(__file__).resolve().parents[2]
    here = Path.cwd()
    for folder in (package_parent, here, *here.parents):
        if (folder / "notebooks" / "profiles").is_dir():
            return folder
    return package_parent


ROOT = _find_root()
PACKAGE = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
PROFILES = NOTEBOOKS / "profiles"
RUNS = ROOT / "runs"
DATA = ROOT / "data"
TABLES = ROOT / "tables"
FIGURES = ROOT / "figures"
SUPPLEMENT = TABLES / "supplement"
README = ROOT / "README.md"
RESULTS = ROOT / "RESULTS.md"


def run_folder(profile_name: str, seed: int = 0) -> Path:
    """Where a run of `profile_name` with `seed` keeps everything it makes: runs/demo, runs/demo-seed1."""
    return RUNS / (profile_name if seed == 0 else f"{profile_name}-seed{seed}")
