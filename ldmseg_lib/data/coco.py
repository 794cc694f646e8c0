"""Fetch COCO 2017 with its panoptic annotations: `python -m ldmseg_lib.data.coco ROOT`.

Archives (19 GB for both splits) are resumed where they broke, unpacked, and removed; what is there already is not
fetched again. ROOT then holds COCO's official layout, as `PanopticDataset` reads it: `train2017/`, `val2017/`, and in
`annotations/` one panoptic JSON and one folder of PNGs a split. Verified are the sizes that the server states, the CRCs
in the archives, and the numbers of images.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import DatasetError, InputError
from .download import download, need_space, remote_size, unpack

BASE_URL = "http://images.cocodataset.org"
IMAGE_COUNTS: Mapping[str, int] = {"train": 118_287, "val": 5_000}
_ANNOTATIONS = "panoptic_annotations_trainval2017.zip"


@dataclass(frozen=True)
class _Job:
    """An archive to fetch, the folder that it fills, the splits in it, and how it is unpacked."""

    url: str
    folder: Path
    splits: tuple[str, ...]
    unpack: Callable[[Path, Path, Sequence[str], bool], None]

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


def fetch_coco(
    root: str | os.PathLike,
    *,
    splits: Sequence[str] = ("train", "val"),
    base_url: str = BASE_URL,
    keep_archives: bool = False,
    image_counts: Mapping[str, int] = IMAGE_COUNTS,
    wait: float = 1.0,
    progress: bool = True,
) -> None:
    """Bring the `splits` of COCO 2017 panoptic into `root`; call again after an interruption to go on.

    Args:
        root: folder of the data set, made if need be.
        splits: keys of `image_counts`.
        base_url: server that has zips/train2017.zip, zips/val2017.zip and annotations/panoptic_annotations_...zip.
        keep_archives: leave the downloaded archives in `root`/archives.
        image_counts: how many photographs, and id PNGs, each split must have in the end.
        wait: seconds before a broken download is tried again; doubled from try to try.
        progress: show progress bars.

    Raises:
        DatasetError: the server refuses or stays out of reach, the disk is too small, an archive is damaged or unsafe,
            or the number of images is not the expected one.
    """
    root = Path(root)
    for split in splits:
        if split not in image_counts:
            raise InputError(f"split {split!r} is unknown; choose from {', '.join(image_counts)}")
    if not base_url.startswith(("http://", "https://")):
        raise InputError(f"base URL {base_url!r} must start with http:// or https://")
    archives = root / "archives"
    todo = [
        _Job(f"{base_url}/zips/{split}2017.zip", root / f"{split}2017", (split,), _unpack_images)
        for split in splits
        if _count(root / f"{split}2017", ".jpg") < image_counts[split]
    ]
    unfinished = tuple(split for split in splits if not _has_annotations(root, split, image_counts[split]))
    if unfinished:
        url = f"{base_url}/annotations/{_ANNOTATIONS}"
        todo.append(_Job(url, root / "annotations", unfinished, _unpack_annotations))
    _check_space(root, archives, todo, wait)
    for job in todo:
        archive = archives / job.name
        download(job.url, archive, wait=wait, progress=progress)
        job.unpack(archive, root, job.splits, progress)
        for split in job.splits:
            _check_count(job.folder, split, archive, image_counts[split])
        if not keep_archives:
            archive.unlink()
    if archives.is_dir() and not any(archives.iterdir()):
        archives.rmdir()


def _check_space(root: Path, archives: Path, jobs: Sequence[_Job], wait: float) -> None:
    """Room for the rest of every archive and, since photographs hardly compress, as much again unpacked."""
    needed = 0
    for job in jobs:
        size = remote_size(job.url, wait=wait) or 0
        have = [path.stat().st_size for path in (archives / job.name, archives / f"{job.name}.part") if path.exists()]
        needed += 2 * size - min(size, sum(have))
    need_space(root, needed, "for the archives and what is in them")


def _unpack_images(archive: Path, root: Path, splits: Sequence[str], progress: bool) -> None:
    for split in splits:
        _unpack_folder(archive, root, f"{split}2017/", progress)


def _unpack_folder(archive: Path, folder: Path, prefix: str, progress: bool) -> None:
    """One folder of the archive; some of COCO's hold __MACOSX beside it."""
    unpack(archive, folder, wanted=lambda name: name.startswith(prefix), progress=progress)


def _unpack_annotations(archive: Path, root: Path, splits: Sequence[str], progress: bool) -> None:
    """The archive holds a JSON and an inner zip of PNGs a split."""
    names = {f"annotations/panoptic_{split}2017.{kind}" for split in splits for kind in ("json", "zip")}
    unpack(archive, root, wanted=lambda name: name in names, progress=progress)
    for split in splits:
        inner = root / "annotations" / f"panoptic_{split}2017.zip"
        if not inner.exists():
            raise DatasetError(f"{archive}: there is no annotations/{inner.name} in it")
        _unpack_folder(inner, root / "annotations", f"panoptic_{split}2017/", progress)
        inner.unlink()


def _has_annotations(root: Path, split: str, count: int) -> bool:
    folder = root / "annotations"
    return (folder / f"panoptic_{split}2017.json").is_file() and _count(
        folder / f"panoptic_{split}2017", ".png"
    ) == count


def _count(folder: Path, suffix: str) -> int:
    if not folder.is_dir():
        return 0
    with os.scandir(folder) as entries:
        return sum(entry.name.endswith(suffix) and not entry.name.startswith(".") for entry in entries)


def _check_count(folder: Path, split: str, archive: Path, expected: int) -> None:
    suffix = ".jpg"
    if folder.name == "annotations":
        if not (folder / f"panoptic_{split}2017.json").is_file():
            raise DatasetError(f"{archive}: there is no annotations/panoptic_{split}2017.json in it")
        folder, suffix = folder / f"panoptic_{split}2017", ".png"
    found = _count(folder, suffix)
    if found != expected:
        raise DatasetError(
            f"{folder}: {found:,} files {suffix}, but {split} has {expected:,}; was {archive} all of it?"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ldmseg_lib.data.coco", description=__doc__.splitlines()[0])
    parser.add_argument("root", help="folder for the data set")
    parser.add_argument("--splits", nargs="+", default=list(IMAGE_COUNTS), choices=list(IMAGE_COUNTS))
    parser.add_argument("--base-url", default=BASE_URL, help=f"server to fetch from (default {BASE_URL})")
    parser.add_argument("--keep-archives", action="store_true", help="leave the archives in ROOT/archives")
    options = parser.parse_args(arguments)
    try:
        fetch_coco(
            options.root,
            splits=tuple(options.splits),
            base_url=options.base_url.rstrip("/"),
            keep_archives=options.keep_archives,
        )
    except (InputError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        return 130
    print(f"{options.root}: COCO 2017 panoptic ({', '.join(options.splits)}) is complete")
    return 0


if __name__ == "__main__":
    sys.exit(main())
