"""Pseudo depth for photographs: `python -m ldmseg_lib.data.depth ROOT` (supplement A, "Multi-Task Setup").

COCO has no depth, so the paper takes MiDaS v3.1's prediction of relative inverse depth as the target. This writes one
16-bit PNG an image into ROOT/depth, or for COCO's layout ROOT/depth_train2017 and ROOT/depth_val2017, and at the end
`info.depth_scale` and `info.depth_source` into the split's JSON. What is there already is not computed again.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt16
from torch import Tensor
from tqdm.auto import tqdm
from transformers import DPTForDepthEstimation, DPTImageProcessorPil

from ..core.errors import DatasetError, InputError
from ..core.files import read_json, write_bytes, write_json
from ..models.safetensors_model import load_pretrained
from .annotations import Annotations, load_annotations
from .layout import SplitFiles, file_in, find_split, list_splits
from .pixels import UNKNOWN_DEPTH, read_image
from .problems import FileFault, Problem

DEFAULT_MODEL = "Intel/dpt-beit-large-512"
"""MiDaS v3.1's best model, in transformers' layout and as safetensors."""

LARGEST = UNKNOWN_DEPTH - 1
"""The PNG value of an image's nearest pixel: a prediction has no unit, so each image is stored in its own."""

_MARK = "source.json"


def encode_relative_depth(inverse_depth: Float[np.ndarray, "height width"]) -> UInt16[np.ndarray, "height width"]:
    """Inverse depth of any unit as PNG values: the largest is 65534, 0 stays 0 (infinitely far), no number is unknown.

    Values below 0, which MiDaS does not mean, count as 0. A map without any positive value is unknown everywhere.
    """
    values = inverse_depth.astype(np.float64)
    finite = np.isfinite(values)
    values = np.where(finite, values, 0.0).clip(min=0.0)
    largest = values.max(initial=0.0)
    if largest <= 0:
        return np.full(values.shape, UNKNOWN_DEPTH, np.uint16)
    steps = np.where(values > 0, np.rint(values / largest * LARGEST).clip(min=1), 0)
    return np.where(finite, steps, UNKNOWN_DEPTH).astype(np.uint16)


def write_depth(path: str | os.PathLike, stored: UInt16[np.ndarray, "height width"]) -> None:
    """Write PNG values of depth atomically as 16-bit greyscale."""
    written, data = cv2.imencode(".png", stored)
    if not written:
        raise OSError(f"{path}: the PNG could not be encoded")
    write_bytes(path, data.tobytes())


class MiDaS(DPTForDepthEstimation):
    """transformers' DPT, which accepts that published weights lack a part that never runs, and hold a computed one.

    The first fusion layer gets no second input, so the residual block for it idles (transformers issue 28292).
    """

    _keys_to_ignore_on_load_missing = (r"neck\.fusion_stage\.layers\.0\.residual_layer1\.",)
    _keys_to_ignore_on_load_unexpected = (r"relative_position_index",)


class DepthPredictor:
    """A DPT model (MiDaS v3) that predicts relative inverse depth.

    Args:
        source: a folder in transformers' layout (config.json, model.safetensors, preprocessor_config.json), or a name
            on the hub.
        device: where it runs.

    Raises:
        InputError: there is no such model, or its weights are incomplete.
    """

    def __init__(self, source: str | os.PathLike = DEFAULT_MODEL, *, device: str = "cpu") -> None:
        source = os.fspath(source)
        self.model = load_pretrained(MiDaS, source, key="--model").to(device).eval()
        try:
            self.processor = DPTImageProcessorPil.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{source}: no preprocessor_config.json can be read ({' '.join(str(error).split())[:200]}); it says how"
                " the model's images are resized and normalised"
            ) from error

    def prepare(self, image: np.ndarray) -> Float[Tensor, "3 rows columns"]:
        """An RGB image (uint8 [H, W, 3]) as the model takes it."""
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]

    @torch.no_grad()
    def predict(
        self, prepared: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[Float[np.ndarray, "height width"]]:
        """Relative inverse depth of prepared images at `sizes` (height, width); those of equal shape make one batch."""
        places = sorted(range(len(prepared)), key=lambda place: tuple(prepared[place].shape))
        maps: dict[int, np.ndarray] = {}
        for _, group in groupby(places, key=lambda place: tuple(prepared[place].shape)):
            rows = list(group)
            batch = torch.stack([prepared[row] for row in rows]).to(self.model.device)
            for row, found in zip(rows, self.model(batch).predicted_depth, strict=True):
                whole = F.interpolate(found[None, None].float(), size=sizes[row], mode="bicubic", align_corners=False)
                maps[row] = whole[0, 0].cpu().numpy()
        return [maps[row] for row in range(len(prepared))]


def write_pseudo_depth(
    root: str | os.PathLike,
    split: str,
    *,
    model: str | os.PathLike = DEFAULT_MODEL,
    batch_size: int = 8,
    device: str = "cpu",
    workers: int = 2,
    progress: bool = True,
) -> Path:
    """Write the depth PNGs of a split that are missing, then their scale into its JSON. Returns their folder.

    Args:
        root: a COCO panoptic folder, flat or in COCO's layout.
        split: "train", "val", ...
        model: of `DepthPredictor`.
        batch_size: images a forward pass.
        device: where the model runs.
        workers: threads that read and resize images meanwhile.
        progress: show a progress bar.

    Raises:
        DatasetError: the folder has a fault, an image cannot be read, or the split has depth of another source.
        InputError: the model cannot be loaded.
    """
    files = find_split(root, split)
    annotations = load_annotations(files)
    folder = files.depth or _depth_folder(files)
    source = os.fspath(model)
    _claim(folder, files, source)
    missing = [place for place in range(len(annotations)) if not os.path.exists(_png(folder, annotations, place))]
    if missing:
        predictor = DepthPredictor(source, device=device)
        bar = tqdm(
            total=len(annotations),
            initial=len(annotations) - len(missing),
            desc=f"depth of {split}",
            unit="image",
            disable=not progress,
        )
        with bar:
            for places, prepared in _prepared(predictor, files, annotations, missing, batch_size, workers):
                sizes = [tuple(annotations.sizes[place].tolist()) for place in places]
                for place, found in zip(places, predictor.predict(prepared, sizes), strict=True):
                    write_depth(_png(folder, annotations, place), encode_relative_depth(found))
                bar.update(len(places))
    _state_scale(files.annotations, source)
    return folder


def _prepared(
    predictor: DepthPredictor,
    files: SplitFiles,
    annotations: Annotations,
    missing: Sequence[int],
    batch_size: int,
    workers: int,
) -> Iterator[tuple[Sequence[int], list[Tensor]]]:
    """The missing images batch by batch; the next batch is read while one is predicted."""

    def prepare(place: int) -> Tensor:
        try:
            path = file_in(files.images, str(annotations.image_files[place]))
            return predictor.prepare(read_image(path, tuple(annotations.sizes[place].tolist())))
        except FileFault as error:
            raise DatasetError(str(Problem(error.path, error.reason, annotations.image_id(place)))) from None

    blocks = [missing[start : start + batch_size] for start in range(0, len(missing), batch_size)]
    with ThreadPoolExecutor(max(1, workers)) as pool:
        coming = [pool.submit(prepare, place) for place in blocks[0]]
        for block, following in zip(blocks, [*blocks[1:], []], strict=True):
            ready = [future.result() for future in coming]
            coming = [pool.submit(prepare, place) for place in following]
            yield block, ready


def _depth_folder(files: SplitFiles) -> Path:
    """Where `find_split` looks for depth first: depth/ in a flat folder, depth_<split> in COCO's layout."""
    if files.images.name == "images":
        return files.images.parent / "depth"
    return files.images.parent / f"depth_{files.annotations.stem.removeprefix('panoptic_')}"


def _png(folder: Path, annotations: Annotations, place: int) -> str:
    return file_in(folder, str(annotations.segment_files[place]))


def _claim(folder: Path, files: SplitFiles, source: str) -> None:
    """Let `folder` be that of `source`: depth of two origins in one folder would have no common scale.

    Raises:
        DatasetError: the folder, or the split's JSON, has depth of another origin.
    """
    info = _info(read_json(files.annotations))
    mark = folder / _MARK
    theirs = read_json(mark).get("depth_source") if mark.exists() else info.get("depth_source")
    stated = info.get("depth_scale") is not None
    if theirs is None and (stated or any(folder.glob("*.png"))):
        theirs = "another source"
    if theirs not in (None, source):
        raise DatasetError(
            f"{folder}: there is depth from {theirs} already; to have it from {source} instead, remove the folder and"
            f" info.depth_scale of {files.annotations}"
        )
    if not mark.exists():
        write_json(mark, {"depth_source": source})


def _state_scale(path: Path, source: str) -> None:
    document: dict[str, Any] = read_json(path)
    info = _info(document)
    wanted = {"depth_scale": 1 / LARGEST, "depth_source": source}
    if any(info.get(key) != value for key, value in wanted.items()):
        write_json(path, document | {"info": info | wanted}, indent=None)


def _info(document: dict[str, Any]) -> dict[str, Any]:
    return document.get("info", {})


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 2 for bad input, with one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m ldmseg_lib.data.depth", description=__doc__.splitlines()[0])
    parser.add_argument("root", help="the data folder, flat or in COCO's layout")
    parser.add_argument("--split", action="append", help="train, val, ...; may be repeated (default: every split)")
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, help="folder or hub name of a DPT model (default %(default)s)"
    )
    parser.add_argument("--batch-size", type=int, default=8, help="images a forward pass (default %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=2, help="threads that read images (default %(default)s)")
    options = parser.parse_args(arguments)
    if options.batch_size < 1:
        parser.error(f"--batch-size is {options.batch_size}; it must be at least 1")
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device {options.device} cannot be used ({' '.join(str(error).split())[:120]}); try cpu")
    try:
        for split in options.split or list_splits(options.root) or ["train"]:
            folder = write_pseudo_depth(
                options.root,
                split,
                model=options.model,
                batch_size=options.batch_size,
                device=options.device,
                workers=options.workers,
            )
            print(f"{split}: depth is in {folder}")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}; nothing that was written before is lost", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; run the same command to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
