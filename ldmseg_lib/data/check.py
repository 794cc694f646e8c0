"""Every fault of a COCO panoptic folder at once: `python -m ldmseg_lib.data.check FOLDER`.

Prints one line a fault (file, image id, segment id, what is wrong) as it is found, then one line of summary. Exit code
2 when there are errors, 0 otherwise: warnings tell what training or the tables will leave out, or what nothing reads.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from ..core.errors import DatasetError, InputError
from ..core.files import read_json
from .annotations import Annotations, ImageId, parse_annotations
from .layout import SplitFiles, file_in, find_split, list_splits
from .pixels import UNKNOWN_DEPTH, read_depth, read_ids, read_image
from .problems import FileFault, Problem
from .reader import ABSENT_ID, UNKNOWN_ID
from .segment_maps import SegmentIndex, index_segments, segment_boxes

_BLOCK = 16


def check_dataset(
    root: str | os.PathLike, split: str, *, num_ids: int = 256, workers: int = 1, progress: bool = False
) -> list[Problem]:
    """Every fault of a split of the data folder `root`: those of the JSON first, then image by image. Never raises.

    Args:
        root: the data folder, flat or in COCO's layout.
        split: "train", "val", ...
        num_ids: ids of the model, void included; images with more segments than that get a warning.
        workers: threads that decode images.
        progress: show a progress bar.

    Example:
        >>> from ldmseg_lib import check_dataset
        >>> from ldmseg_lib.data.scenes.dataset import write_dataset
        >>> folder = write_dataset("scenes", size=32, train_scenes=1, val_scenes=1, workers=1, progress=False)
        >>> check_dataset(folder, "val")
        []
        >>> (folder / "images" / "000020000000.jpg").unlink()
        >>> print(check_dataset(folder, "val")[0])
        scenes/images/000020000000.jpg, image id 20000000: no such file
    """
    return list(find_problems(root, split, num_ids=num_ids, workers=workers, progress=progress))


def find_problems(
    root: str | os.PathLike, split: str, *, num_ids: int = 256, workers: int = 1, progress: bool = False
) -> Iterator[Problem]:
    """The faults of `check_dataset`, each as soon as it is found."""
    place = os.fspath(root)
    try:
        files = find_split(root, split)
        place = os.fspath(files.annotations)
        document = read_json(place)
    except InputError as error:
        yield Problem(place, str(error).removeprefix(f"{place}: "))
        return
    annotations, problems = parse_annotations(document, files)
    yield from problems
    yield from _whole_split_problems(files, annotations)
    blocks = [range(start, min(start + _BLOCK, len(annotations))) for start in range(0, len(annotations), _BLOCK)]
    check_block = partial(_check_block, files, annotations, num_ids)
    with (
        tqdm(total=len(annotations), desc=f"checking {split}", unit=" images", disable=not progress) as bar,
        ThreadPoolExecutor(max(workers, 1)) as pool,
    ):
        for block, found in zip(blocks, pool.map(check_block, blocks), strict=True):
            bar.update(len(block))
            yield from found


def _whole_split_problems(files: SplitFiles, annotations: Annotations) -> Iterator[Problem]:
    name = os.fspath(files.annotations)
    if len(annotations) and not len(annotations.segment_ids) and annotations.unlabelled != "background":
        yield Problem(name, "no image has any segment: nothing to train on and nothing to score")
    if files.depth is not None and annotations.depth_scale is None:
        yield Problem(name, f"info.depth_scale is missing, so the depth PNGs in {files.depth} have no unit")


def _check_block(files: SplitFiles, annotations: Annotations, num_ids: int, places: range) -> list[Problem]:
    return [problem for place in places for problem in _check_image(files, annotations, num_ids, place)]


def _check_image(files: SplitFiles, annotations: Annotations, num_ids: int, place: int) -> Iterator[Problem]:
    image_id = annotations.image_id(place)
    size = tuple(annotations.sizes[place].tolist())
    segments = annotations.segments(place)
    segment_ids = annotations.segment_ids[segments]
    background = annotations.unlabelled == "background"
    png_name = str(annotations.segment_files[place])
    found = None
    try:
        read_image(_path(files.images, str(annotations.image_files[place])), size)
    except FileFault as error:
        yield Problem(error.path, error.reason, image_id)
    try:
        png = _path(files.panoptic, png_name)
        found = index_segments(read_ids(png, size, segment_ids), segment_ids, index_zero=background)
    except FileFault as error:
        yield Problem(error.path, error.reason, image_id)
    if found is not None:
        yield from _compare(png, found, annotations, place)
    if files.depth is not None:
        yield from _check_depth(files.depth, png_name, size, image_id)

    warn = partial(Problem, os.fspath(files.annotations), image_id=image_id, level="warning")
    if not len(segment_ids) and not background:
        yield warn(message="the image has no segments; training leaves it out")
    elif annotations.crowd[segments].all() and not background:
        yield warn(message="the image has only crowd segments; training leaves it out")
    count = len(segment_ids) + int(found is not None and len(found.areas) > len(segment_ids) + 1)
    if count > num_ids - 1:
        yield warn(message=f"{count} segments, but {num_ids - 1} ids; training voids the smallest, scores count them")


def _path(folder: str | os.PathLike, name: str) -> str:
    try:
        return file_in(folder, name)
    except InputError as error:
        raise FileFault(folder, str(error)) from None


def _compare(png: str, found: SegmentIndex, annotations: Annotations, place: int) -> Iterator[Problem]:
    """The PNG against the JSON's ids, areas and boxes."""
    image_id, segments = annotations.image_id(place), annotations.segments(place)
    for segment_id in found.unknown.tolist():
        yield Problem(png, UNKNOWN_ID, image_id, segment_id)
    for segment_id in found.absent.tolist():
        yield Problem(png, ABSENT_ID, image_id, segment_id)
    segment_ids = annotations.segment_ids[segments]
    claimed = np.column_stack([annotations.areas[segments], annotations.boxes[segments]])
    boxes = segment_boxes(found.index, len(found.areas) - 1)
    measured = np.column_stack([found.areas, boxes])[1 : len(segment_ids) + 1]
    wrong = (claimed != measured) & (claimed >= 0) & (measured[:, :1] > 0)
    for row in np.flatnonzero(wrong.any(axis=1)).tolist():
        warn = partial(Problem, png, image_id=image_id, segment_id=int(segment_ids[row]), level="warning")
        if wrong[row, 0]:
            yield warn(message=f"area is {measured[row, 0]} px, but the JSON says {claimed[row, 0]}")
        if wrong[row, 1:].any():
            yield warn(message=f"bbox is {measured[row, 1:].tolist()}, but the JSON says {claimed[row, 1:].tolist()}")


def _check_depth(folder: Path, name: str, size: tuple[int, int], image_id: ImageId) -> Iterator[Problem]:
    try:
        path = _path(folder, name)
        stored = read_depth(path, size)
    except FileFault as error:
        yield Problem(error.path, error.reason, image_id)
        return
    if (stored == UNKNOWN_DEPTH).all():
        yield Problem(path, "the depth is unknown at every pixel", image_id, level="warning")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ldmseg_lib.data.check", description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="the data folder: panoptic_<split>.json beside images/ and panoptic/, or COCO's")
    parser.add_argument("--split", action="append", help="train, val, ...; may be repeated (default: every split)")
    parser.add_argument("--num-ids", type=int, default=256, help="ids of the model, void included (default 256)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="threads (default: the cores)")
    options = parser.parse_args(arguments)
    try:
        splits = options.split or list_splits(options.folder)
        if not splits:
            find_split(options.folder, "train")
    except DatasetError as error:
        print(error, file=sys.stderr)
        return 2
    counts = {"error": 0, "warning": 0}
    try:
        for split in splits:
            for problem in find_problems(
                options.folder, split, num_ids=options.num_ids, workers=options.workers, progress=True
            ):
                counts[problem.level] += 1
                tqdm.write(f"{problem.level}: {problem}")
    except KeyboardInterrupt:
        print("stopped before the end; the faults above are those found so far", file=sys.stderr)
        return 130
    print(f"{options.folder} ({', '.join(splits)}): {counts['error']} errors, {counts['warning']} warnings")
    return 2 if counts["error"] else 0


if __name__ == "__main__":
    sys.exit(main())
