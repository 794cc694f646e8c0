"""Where the files of a split lie: in a flat data folder, or in COCO's official layout."""

import os
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import DatasetError
from ..core.files import inside


@dataclass(frozen=True)
class SplitFiles:
    """The annotation file of a split and the folders that its file names refer to; `depth` is None without one."""

    annotations: Path
    images: Path
    panoptic: Path
    depth: Path | None


def find_split(root: str | os.PathLike, split: str) -> SplitFiles:
    """The files of `split` ("train", "val"; a full name such as "val2017" works too) under `root`.

    Two layouts are known, and may be mixed. Flat: `panoptic_val.json`, `images/`, `panoptic/`, `depth/`. COCO's:
    `annotations/panoptic_val2017.json`, `val2017/`, and `panoptic_val2017/` beside either of them.

    Raises:
        DatasetError: `root` is no folder, or has no annotation file of the split (the message lists what it has).
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; give the folder that holds panoptic_{split}.json")
    for name in (split, f"{split}2017"):
        for folder in (root, root / "annotations"):
            annotations = folder / f"panoptic_{name}.json"
            if annotations.is_file():
                return SplitFiles(
                    annotations=annotations,
                    images=_first_folder(root / name, root / "images" / name, root / "images"),
                    panoptic=_first_folder(
                        root / f"panoptic_{name}", root / "annotations" / f"panoptic_{name}", root / "panoptic"
                    ),
                    depth=_optional_folder(root / f"depth_{name}", root / "depth"),
                )
    found = list_splits(root)
    hint = f"it has {', '.join(found)}" if found else "it has no panoptic_*.json at all"
    raise DatasetError(
        f"{root}: no panoptic_{split}.json and no annotations/panoptic_{split}2017.json for split {split!r}; {hint}"
    )


def list_splits(root: str | os.PathLike) -> list[str]:
    """The names of the splits under `root`, as `find_split` takes them, sorted; official years are left off."""
    root = Path(root)
    paths = [*root.glob("panoptic_*.json"), *(root / "annotations").glob("panoptic_*.json")]
    return sorted({path.stem.removeprefix("panoptic_").removesuffix("2017") for path in paths})


def file_in(folder: str | os.PathLike, name: str) -> str:
    """The path of the file that a JSON calls `name`, provided that it stays inside `folder`.

    Raises:
        InputError: it does not (see `ldmseg_lib.core.files.inside`).
    """
    path = os.path.join(folder, name)
    # resolving every path costs as much as decoding a small image
    return path if is_plain(name) and not os.path.islink(path) else os.fspath(inside(folder, name))


def is_plain(name: str) -> bool:
    """Whether `name` is that of a file in the folder itself, which can leave it only by being a link."""
    return not ("/" in name or "\\" in name or name in (".", ".."))


def _first_folder(*candidates: Path) -> Path:
    return next((path for path in candidates if path.is_dir()), candidates[-1])


def _optional_folder(*candidates: Path) -> Path | None:
    return next((path for path in candidates if path.is_dir()), None)
