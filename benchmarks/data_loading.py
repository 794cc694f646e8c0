"""How many images a second one core reads and prepares at 512 px, and how many cores keep 8 GPUs busy.

    python benchmarks/data_loading.py [--folder COCO --split val] [--training-rate 64]

Without a folder, one of 640x480 images is made in a temporary place. Rates are per second of processor time of one
core, files in the page cache, no sample kept from one visit to the next.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from coco_like import describe, write_folder

from ldmseg_lib.core.files import write_json
from ldmseg_lib.core.machine import device_name, package_versions
from ldmseg_lib.core.paths import ROOT
from ldmseg_lib.data import transforms
from ldmseg_lib.data.annotations import load_annotations
from ldmseg_lib.data.layout import find_split
from ldmseg_lib.data.panoptic import PanopticDataset, collate
from ldmseg_lib.data.pixels import read_ids, read_image
from ldmseg_lib.data.segment_maps import index_segments


def rate(action: Callable[[int], object], images: int, seconds: float) -> float:
    """Calls of `action` per second of processor time, over whole passes through the images."""
    for place in range(min(images, 20)):
        action(place)
    calls, start = 0, time.process_time()
    while time.process_time() - start < seconds:
        action(calls % images)
        calls += 1
    return calls / (time.process_time() - start)


def measure(folder: Path, split: str, *, size: int, seconds: float, max_images: int) -> dict[str, float]:
    """Rates of the parts and of the whole, and what the files are like."""
    torch.set_num_threads(1)
    files = find_split(folder, split)
    annotations = load_annotations(files)
    count = min(len(annotations), max_images)
    photographs = [files.images / str(annotations.image_files[place]) for place in range(count)]
    pngs = [files.panoptic / str(annotations.segment_files[place]) for place in range(count)]
    sizes = [tuple(annotations.sizes[place].tolist()) for place in range(count)]
    owned = [annotations.segment_ids[annotations.segments(place)] for place in range(count)]
    some = range(min(count, 32))
    images = [read_image(photographs[place]) for place in some]
    maps = [read_ids(pngs[place], sizes[place], owned[place]) for place in some]
    dataset = PanopticDataset(folder, split, image_size=size, augment=True, cache=False, max_images=count)
    parts: dict[str, Callable[[int], object]] = {
        "decode JPEG": lambda place: read_image(photographs[place], sizes[place]),
        "decode PNG": lambda place: read_ids(pngs[place], sizes[place], owned[place]),
        "index segments": lambda place: index_segments(maps[place % len(some)], owned[place % len(some)]),
        "resize": lambda place: transforms.resize_image(images[place % len(some)], size),
        "whole sample": lambda place: dataset[place % len(dataset), place],
    }
    rates = {name: rate(action, count, seconds) for name, action in parts.items()}
    rates["batch of 32, per image"] = 32 * rate(
        lambda step: collate([dataset[(32 * step + k) % len(dataset)] for k in range(32)]), count, seconds
    )
    sample = 1 / rates["whole sample"]
    decoding = 1 / rates["decode JPEG"] + 1 / rates["decode PNG"]
    return {
        **{f"{name} (images/s/core)": value for name, value in rates.items()},
        "decoding, share of a sample": decoding / sample,
        "mean JPEG (KiB)": float(np.mean([path.stat().st_size for path in photographs])) / 1024,
        "mean PNG (KiB)": float(np.mean([path.stat().st_size for path in pngs])) / 1024,
        "mean segments": len(annotations.segment_ids) / len(annotations),
    }


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a COCO panoptic folder (default: one that is made)")
    parser.add_argument("--split", default="val")
    parser.add_argument("--size", type=int, default=512, help="side of the samples in pixels")
    parser.add_argument("--images", type=int, default=250, help="at most so many different images")
    parser.add_argument("--seconds", type=float, default=5.0, help="processor time for each part")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--batch", type=int, default=256, help="images a step, over all GPUs")
    parser.add_argument(
        "--training-rate",
        type=float,
        default=64.0,
        help="images a second that one GPU trains on; the default takes 2.0 TFLOP an image (SD v1.4's UNet at 64x64, "
        "forward and backward) and 130 TFLOP/s of an A100",
    )
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "data_loading.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if options.folder is None:
            write_folder(folder, images=options.images, split=options.split)
        measured = measure(folder, options.split, size=options.size, seconds=options.seconds, max_images=options.images)
        data = describe(folder, options.split)
    needed = options.gpus * options.training_rate
    cores = needed / measured["batch of 32, per image (images/s/core)"]
    result = {
        "device": device_name(),
        "packages": package_versions(),
        "data": data,
        "size": options.size,
        "measured": {name: round(value, 3) for name, value in measured.items()},
        "assumed": {"gpus": options.gpus, "batch": options.batch, "images/s/GPU": options.training_rate},
        "cores that keep the GPUs busy": round(cores, 1),
        "seconds a step": round(options.batch / needed, 3),
    }
    write_json(options.output, result)
    for name, value in measured.items():
        print(f"{name:40s} {value:10.2f}")
    print(f"{options.gpus} GPUs at {options.training_rate:g} images/s each: {options.batch / needed:.2f} s a step")
    print(f"cores that keep them busy at batch {options.batch}: {cores:.1f} ({device_name()})")


if __name__ == "__main__":
    main()
