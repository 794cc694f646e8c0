"""How fast panoptic quality is: beside torchmetrics on decoded maps, and from files, where decoding PNGs is the limit.

    python benchmarks/panoptic_quality.py [--images 50]

Images of 640x480 with some 11 segments, as COCO's, are made in a temporary place; predictions are the same maps shifted
by some pixels, with one segment given to another and one of a wrong class. One core; rates are per second of processor
time, files in the page cache.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from coco_like import write_folder
from PIL import Image
from torchmetrics.detection import PanopticQuality as TorchmetricsPanopticQuality

from ldmseg_lib.core.files import write_json
from ldmseg_lib.core.machine import device_name, package_versions
from ldmseg_lib.core.paths import ROOT
from ldmseg_lib.data.pixels import read_ids
from ldmseg_lib.evaluation.coco_files import pair_images, read_ground_truth, read_predictions
from ldmseg_lib.evaluation.coco_panoptic import evaluate, make_rules
from ldmseg_lib.evaluation.panoptic_quality import PanopticQuality

SHIFT = (4, 6)


def make_predictions(folder: Path, rng: np.random.Generator) -> None:
    """Write predictions beside a made folder, and give each segment of an image a class of its own.

    torchmetrics merges stuff of one class, and leaves pixels of targets on predicted void out of the union; predictions
    without void keep it to COCO's rules.
    """
    truth = json.loads((folder / "panoptic_val.json").read_text())
    (folder / "predictions").mkdir()
    predictions = []
    for annotation in truth["annotations"]:
        segments = annotation["segments_info"]
        classes = rng.choice(np.arange(1, 134), len(segments), replace=False).tolist()
        for segment, category in zip(segments, classes, strict=True):
            segment["category_id"] = category
        missed, taker, *_ = segments
        ids = np.roll(np.asarray(Image.open(folder / "panoptic" / annotation["file_name"])), SHIFT, (0, 1))
        wide = ids.astype(np.int64) @ (1, 256, 65536)
        colour = np.array([taker["id"] >> shift & 255 for shift in (0, 8, 16)], np.uint8)
        predicted = np.where(((wide == missed["id"]) | (wide == 0))[..., None], colour, ids)
        Image.fromarray(predicted).save(folder / "predictions" / annotation["file_name"])
        kept = [{"id": segment["id"], "category_id": segment["category_id"]} for segment in segments[1:]]
        kept[-1]["category_id"] = missed["category_id"]
        predictions.append({**annotation, "segments_info": kept})
    (folder / "panoptic_val.json").write_text(json.dumps(truth))
    (folder / "predictions.json").write_text(json.dumps({"annotations": predictions}))


def rate(action: Callable[[int], object], images: int, seconds: float) -> float:
    """Calls of `action` per second of processor time, over whole passes through the images."""
    action(0)
    calls, start = 0, time.process_time()
    while calls < images or time.process_time() - start < seconds:
        action(calls % images)
        calls += 1
    return calls / (time.process_time() - start)


def pillow_ids(path: Path) -> np.ndarray:
    """What evaluators commonly do: Pillow, then R + 256 G + 65536 B."""
    colours = np.array(Image.open(path), dtype=np.uint32)
    return colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]


def opencv_ids(path: Path) -> np.ndarray:
    """The same ids from OpenCV's decoder, which gives B, G, R."""
    colours = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    return cv2.cvtColor(colours, cv2.COLOR_BGR2RGBA).view("<u4")[..., 0] & 0xFFFFFF


def as_torchmetrics(ids: np.ndarray, segments: list[dict[str, Any]]) -> torch.Tensor:
    """Class and instance of each pixel, [1, height, width, 2]; class 0 is unknown to the metric, hence void."""
    values, inverse = np.unique(ids, return_inverse=True)
    class_of = {segment["id"]: segment["category_id"] for segment in segments}
    classes = np.array([class_of.get(int(value), 0) for value in values])[inverse].reshape(ids.shape)
    return torch.from_numpy(np.stack([classes, ids], axis=-1))[None]


def on_decoded_maps(pairs: list[Any], maps: list[Any], categories: list[Any], slow_images: int) -> dict[str, Any]:
    """Images a second of both implementations, and how far their results are apart."""
    ours = PanopticQuality(categories)
    ours_rate = rate(
        lambda i: ours.update(
            maps[i][0], pairs[i].target["segments_info"], maps[i][1], pairs[i].prediction["segments_info"]
        ),
        len(pairs),
        seconds=5,
    )
    things = {c["id"] for c in categories if c["isthing"]}
    stuff = {c["id"] for c in categories} - things
    theirs = TorchmetricsPanopticQuality(things, stuff, allow_unknown_preds_category=True)
    same = PanopticQuality(categories)
    converted = [
        (as_torchmetrics(m[1], p.prediction["segments_info"]), as_torchmetrics(m[0], p.target["segments_info"]))
        for m, p in zip(maps[:slow_images], pairs[:slow_images], strict=True)
    ]
    start = time.process_time()
    for predicted, target in converted:
        theirs.update(predicted, target)
    theirs_rate = slow_images / (time.process_time() - start)
    for (target, predicted), pair in zip(maps[:slow_images], pairs[:slow_images], strict=True):
        same.update(target, pair.target["segments_info"], predicted, pair.prediction["segments_info"])
    return {
        "ours (images/s)": ours_rate,
        "torchmetrics (images/s)": theirs_rate,
        "ratio": ours_rate / theirs_rate,
        "PQ, ours": same.compute()["All"]["pq"],
        "PQ, torchmetrics": float(theirs.compute()),
    }


def from_files(folder: Path, pairs: list[Any], rules: Any) -> dict[str, float]:
    """Images a second of the whole evaluation, the decoder's share of it, and three decoders side by side."""
    start = time.process_time()
    evaluation = evaluate(pairs, rules)
    whole = (time.process_time() - start) / len(pairs)
    assert not evaluation.fault
    paths = [folder / side / pair.target["file_name"] for pair in pairs for side in ("panoptic", "predictions")]
    none = np.zeros(0, np.int64)
    ours = rate(lambda i: read_ids(paths[i], None, none), len(paths), seconds=3)
    opencv = rate(lambda i: opencv_ids(paths[i]), len(paths), seconds=3)
    pillow = rate(lambda i: pillow_ids(paths[i]), len(paths), seconds=3)
    return {
        "whole evaluation (images/s)": 1 / whole,
        "decoding with kornia-rs (images/s, two PNGs an image)": ours / 2,
        "decoding with OpenCV (images/s, two PNGs an image)": opencv / 2,
        "decoding with Pillow (images/s, two PNGs an image)": pillow / 2,
        "kornia-rs over OpenCV": ours / opencv,
        "kornia-rs over Pillow": ours / pillow,
        "decoding, share of the whole": 2 / ours / whole,
        "mean PNG (KiB)": float(np.mean([path.stat().st_size for path in paths])) / 1024,
    }


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50, help="images of the made folder")
    parser.add_argument("--slow-images", type=int, default=5, help="images for torchmetrics, which takes seconds each")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "panoptic_quality.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_folder(folder, images=options.images, distinct=options.images)
        make_predictions(folder, np.random.default_rng(1))
        truth = read_ground_truth(folder / "panoptic_val.json")
        predictions = read_predictions(folder / "predictions.json")
        pairs = pair_images(truth, predictions, list(truth.entries))
        none = np.zeros(0, np.int64)
        maps = [
            tuple(read_ids(folder / side / p.target["file_name"], None, none) for side in ("panoptic", "predictions"))
            for p in pairs
        ]
        measured = {
            "on decoded maps": on_decoded_maps(pairs, maps, truth.categories, min(options.slow_images, len(pairs))),
            "from files": from_files(folder, pairs, make_rules(truth, predictions)),
        }
    result = {
        "device": f"{device_name()}, one used",
        "load before": load,
        "packages": package_versions(),
        "images": f"{options.images} of 640x480",
        **measured,
    }
    write_json(options.output, result)
    for part, values in measured.items():
        print(part)
        for name, value in values.items():
            print(f"  {name:54s} {value:12.4f}")
    print(f"device: {result['device']}; load before: {load:.1f}")


if __name__ == "__main__":
    main()
