"""The embedded data set: rendered scenes written as a COCO panoptic folder with depth.

    python -m ldmseg_lib.data.scenes FOLDER --size 64 --train-scenes 4000 --val-scenes 256

The folder holds images/*.jpg, panoptic/*.png (id = R + 256 G + 65536 B), depth/*.png (16 bit; inverse depth = value *
`info.depth_scale`, 0 = infinitely far) and one panoptic_{split}.json for each split, written last: where it exists, the
split is complete.
"""

import argparse
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt16
from PIL import Image
from tqdm.auto import tqdm

from ...core import files
from ...core.errors import DatasetError, InputError, one_line_errors
from ..segment_maps import index_segments, segment_boxes
from .scene import CATEGORIES, VERSION, Scene, draw_scene

SCENE_SEEDS = {
    "train": range(10_000_000, 20_000_000),
    "val": range(20_000_000, 30_000_000),
    "test": range(30_000_000, 40_000_000),
    "ready_train": range(40_000_000, 50_000_000),
    "ready_val": range(50_000_000, 60_000_000),
    "ready_test": range(60_000_000, 70_000_000),
}
"""Which seeds each split draws from; `ready_*` are for the shipped model. No two splits share a scene."""

DEPTH_SCALE = 1 / 32768
"""Inverse depth, in 1/metre, of one step of the depth PNGs."""

_DEPTH_LARGEST = 65534
_JPEG_QUALITY = 92
_CHUNK = 25
_PARTS = ".parts"


def scene_seed(split: str, index: int) -> int:
    """The seed of scene `index` of a split, which is its image id too.

    Raises:
        DatasetError: an unknown split, or an index outside its range of seeds.
    """
    if split not in SCENE_SEEDS:
        raise DatasetError(f"no split {split!r} in the embedded data set; choose one of {', '.join(SCENE_SEEDS)}")
    seeds = SCENE_SEEDS[split]
    if not 0 <= index < len(seeds):
        raise DatasetError(f"no scene {index} in split {split!r}; it has scenes 0 to {len(seeds) - 1}")
    return seeds[index]


def encode_depth(inverse_depth: Float[np.ndarray, "height width"]) -> UInt16[np.ndarray, "height width"]:
    """Steps of DEPTH_SCALE: 0 only for what is infinitely far, at most 65534 (65535 means unknown)."""
    steps = np.clip(np.rint(inverse_depth.astype(np.float64) / DEPTH_SCALE), 1, _DEPTH_LARGEST)
    return np.where(inverse_depth > 0, steps, 0).astype(np.uint16)


def write_dataset(
    folder: str | os.PathLike,
    *,
    size: int,
    train_scenes: int,
    val_scenes: int,
    min_things: int = 2,
    max_things: int = 5,
    splits: Sequence[str] = ("train", "val"),
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Draw the embedded data set into `folder` and return it.

    The bytes depend on the parameters alone, not on `workers`. A finished split is left as it is; an interrupted run is
    continued. Worker processes are spawned, so a script calls this under `if __name__ == "__main__":`.

    Args:
        size: height and width of every picture in pixels.
        train_scenes: scenes in each of the splits "train" and "ready_train".
        val_scenes: scenes in each other split.
        min_things: fewest things in a scene.
        max_things: most things in a scene, up to 12.
        splits: which of SCENE_SEEDS to draw.
        workers: processes; None takes one for each available core.
        progress: show a progress bar.

    Raises:
        DatasetError: `folder` holds scenes of other parameters, or a split is unknown or too large.
        InputError: parameters that `draw_scene` refuses.
    """
    folder = Path(folder)
    common = {"version": VERSION, "size": size, "min_things": min_things, "max_things": max_things}
    for split in splits:
        count = train_scenes if split.endswith("train") else val_scenes
        first = scene_seed(split, 0)
        scene_seed(split, max(count, 1) - 1)
        parameters = {**common, "split": split, "scenes": count, "first_seed": first}
        _refuse_other(folder, split, parameters)
        if _json_path(folder, split).exists():
            continue
        _write_split(folder, parameters, workers=workers or _available_cores(), progress=progress)
    if not any((folder / _PARTS).glob("*")):
        shutil.rmtree(folder / _PARTS, ignore_errors=True)
    return folder


def _available_cores() -> int:
    # fewer than the machine has, where a container or a cluster's scheduler gives only some
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _json_path(folder: Path, split: str) -> Path:
    return folder / f"panoptic_{split}.json"


def _refuse_other(folder: Path, split: str, parameters: dict[str, Any]) -> None:
    """Refuse a folder in which any split was drawn, or begun, with other parameters."""
    for other in SCENE_SEEDS:
        for path in (_json_path(folder, other), folder / _PARTS / f"{other}.json"):
            if not path.exists():
                continue
            content = files.read_json(path)
            found = content.get("info", {}).get("parameters") if isinstance(content, dict) else None
            if not isinstance(found, dict):
                raise DatasetError(f"{path} was not written by the embedded data set; give another folder")
            keys = parameters if other == split else ("version", "size", "min_things", "max_things")
            differences = [f"{key} {found.get(key)} instead of {parameters[key]}" for key in keys
                           if found.get(key) != parameters[key]]  # fmt: skip
            if differences:
                raise DatasetError(f"{path} has {', '.join(differences)}; give another folder or remove this one")


def _write_split(folder: Path, parameters: dict[str, Any], *, workers: int, progress: bool) -> None:
    split, count = parameters["split"], parameters["scenes"]
    parts = folder / _PARTS
    files.write_json(parts / f"{split}.json", {"info": {"parameters": parameters}})
    for name in ("images", "panoptic", "depth"):
        (folder / name).mkdir(exist_ok=True)

    chunks = [(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    records = {chunk: record for chunk in chunks if (record := _finished(folder, split, chunk))}
    missing = [chunk for chunk in chunks if chunk not in records]
    done = sum(last - first for first, last in records)
    with tqdm(total=count, initial=done, desc=f"drawing {split}", unit="scene", disable=not progress) as bar:
        for chunk, record in _draw_chunks(folder, parameters, missing, workers):
            records[chunk] = record
            bar.update(chunk[1] - chunk[0])

    info = {
        "description": f"Embedded data set of ldmseg_lib: ray-cast scenes, split {split}",
        "version": str(VERSION),
        "unlabelled": "void",
        "depth_scale": DEPTH_SCALE,
        "parameters": parameters,
    }
    result = {
        "info": info,
        "images": [image for chunk in chunks for image in records[chunk]["images"]],
        "annotations": [annotation for chunk in chunks for annotation in records[chunk]["annotations"]],
        "categories": CATEGORIES,
    }
    os.sync()
    files.write_json(_json_path(folder, split), result, indent=None)
    for path in (parts / f"{split}.json", *(_part_path(folder, split, chunk) for chunk in chunks)):
        path.unlink(missing_ok=True)


def _finished(folder: Path, split: str, chunk: tuple[int, int]) -> dict[str, Any] | None:
    """The record of a chunk that an interrupted run drew, if all its files are still there."""
    path = _part_path(folder, split, chunk)
    if not path.exists():
        return None
    names = [f"{scene_seed(split, index):012d}" for index in range(*chunk)]
    scenes = [file for name in names for file in _scene_files(folder, name)]
    # after a power failure a file may be there and empty
    return files.read_json(path) if all(file.exists() and file.stat().st_size for file in scenes) else None


def _scene_files(folder: Path, name: str) -> tuple[Path, Path, Path]:
    return folder / "images" / f"{name}.jpg", folder / "panoptic" / f"{name}.png", folder / "depth" / f"{name}.png"


def _part_path(folder: Path, split: str, chunk: tuple[int, int]) -> Path:
    return folder / _PARTS / f"{split}-{chunk[0]:07d}.json"


def _draw_chunks(
    folder: Path, parameters: dict[str, Any], chunks: list[tuple[int, int]], workers: int
) -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
    workers = min(workers, len(chunks))
    if workers <= 1:
        for chunk in chunks:
            yield chunk, _draw_chunk(folder, parameters, chunk)
        return
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        futures = {pool.submit(_draw_chunk, folder, parameters, chunk): chunk for chunk in chunks}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise InputError(
            'the drawing processes stopped; call write_dataset under `if __name__ == "__main__":`, or with workers=1'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _draw_chunk(folder: Path, parameters: dict[str, Any], chunk: tuple[int, int]) -> dict[str, Any]:
    """Draw and write scenes; last a record of them, so that a continued run need not draw them again."""
    record: dict[str, Any] = {"images": [], "annotations": []}
    for index in range(*chunk):
        image_id = scene_seed(parameters["split"], index)
        scene = draw_scene(
            image_id,
            size=parameters["size"],
            min_things=parameters["min_things"],
            max_things=parameters["max_things"],
        )
        image, annotation = _write_scene(folder, image_id, scene)
        record["images"].append(image)
        record["annotations"].append(annotation)
    files.write_json(_part_path(folder, parameters["split"], chunk), record, indent=None)
    return record


def _write_scene(folder: Path, image_id: int, scene: Scene) -> tuple[dict[str, Any], dict[str, Any]]:
    name = f"{image_id:012d}"
    colors = np.stack([scene.ids & 255, (scene.ids >> 8) & 255, scene.ids >> 16], axis=-1).astype(np.uint8)
    image_path, ids_path, depth_path = _scene_files(folder, name)
    _save(image_path, Image.fromarray(scene.image), quality=_JPEG_QUALITY, subsampling=0)
    _save(ids_path, Image.fromarray(colors))
    _save(depth_path, Image.fromarray(encode_depth(scene.inverse_depth)))
    height, width = scene.ids.shape
    image = {"id": image_id, "file_name": f"{name}.jpg", "width": width, "height": height}
    found = index_segments(scene.ids, np.array([segment["id"] for segment in scene.segments]))
    boxes = segment_boxes(found.index, len(scene.segments)).tolist()
    segments = [
        segment | {"iscrowd": 0, "bbox": boxes[k], "area": int(found.areas[k])}
        for k, segment in enumerate(scene.segments, 1)
    ]
    return image, {"image_id": image_id, "file_name": f"{name}.png", "segments_info": segments}


def _save(path: Path, image: Image.Image, **options: Any) -> None:
    # not flushed to disk one by one, which takes longer than drawing: the whole split is, before its JSON is written
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        image.save(temporary, **options)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 on success, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m ldmseg_lib.data.scenes",
        description="Draw the embedded data set: ray-cast scenes as a COCO panoptic folder with depth.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where to write; a finished folder is left as it is")
    parser.add_argument("--size", type=int, default=64, help="height and width of every picture in pixels")
    parser.add_argument("--train-scenes", type=int, default=4000, help="scenes of the training split")
    parser.add_argument("--val-scenes", type=int, default=256, help="scenes of every other split")
    parser.add_argument("--min-things", type=int, default=2, help="fewest things in a scene")
    parser.add_argument("--max-things", type=int, default=5, help="most things in a scene")
    parser.add_argument("--splits", nargs="+", default=["train", "val"], choices=list(SCENE_SEEDS), help="what to draw")
    parser.add_argument("--workers", type=int, help="processes; by default one for each available core")
    print(write_dataset(**vars(parser.parse_args(arguments))))
    return 0
