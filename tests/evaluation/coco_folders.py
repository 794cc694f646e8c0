"""A small ground truth with predictions on disk, for the tests of the evaluation command."""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ldmseg_lib.evaluation.__main__ import main
from ldmseg_lib.evaluation.panoptic_quality import PanopticQuality

CATEGORIES = [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "grass", "isthing": 0}]
FAULTY = 3
"""The place of the image that tests break; there are five."""


def write_ids(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.stack([ids >> 16 & 255, ids >> 8 & 255, ids & 255], axis=-1).astype(np.uint8))


@dataclass
class Files:
    """A ground truth and its predictions on disk, five images of 24 x 16."""

    root: Path
    truth: dict
    predictions: dict
    maps: list[tuple[np.ndarray, list, np.ndarray, list]]

    def png(self, place: int, side: str = "predictions") -> Path:
        return self.root / side / f"{place:012d}.png"

    def write(self) -> None:
        for side, document in (("truth", self.truth), ("predictions", self.predictions)):
            (self.root / f"{side}.json").write_text(json.dumps(document))

    def run(self, *options: str) -> int:
        paths = {"ground-truth": "truth.json", "predictions": "predictions.json", "json": "out.json"}
        return main([*(f"--{name}={self.root / path}" for name, path in paths.items()), *options])

    def report(self) -> dict:
        return json.loads((self.root / "out.json").read_text())

    def expected(self, places, **rules) -> dict:
        metric = PanopticQuality(CATEGORIES, **rules)
        for place in places:
            metric.update(*self.maps[place])
        return metric.compute()


def make_files(root: Path) -> Files:
    """Five images with two cats and a strip of grass each; the cats of truth and prediction differ in size."""
    rng = np.random.default_rng(0)
    truth = {"categories": CATEGORIES, "images": [], "annotations": []}
    predictions = {"annotations": []}
    maps = []
    for place in range(5):
        image = {"id": place + 100, "file_name": f"{place:012d}.jpg", "height": 16, "width": 24}
        truth["images"].append(image)
        pair = []
        for side, document in (("truth", truth), ("predictions", predictions)):
            ids = np.zeros((16, 24), np.int64)
            ids[:, 2:12], ids[:, 12:22] = 70000 + place, 9
            ids[rng.integers(0, 6) :, 6:16] = 300
            segments = [
                {"id": 70000 + place, "category_id": 1, "iscrowd": 0, "area": 1},
                {"id": 9, "category_id": 2, "iscrowd": 0, "area": 1},
                {"id": 300, "category_id": 1, "iscrowd": 0, "area": 1},
            ]
            write_ids(root / side / f"{place:012d}.png", ids)
            document["annotations"].append(
                {"image_id": place + 100, "file_name": f"{place:012d}.png", "segments_info": segments}
            )
            pair += [ids, segments]
        maps.append(tuple(pair))
    made = Files(root, truth, predictions, maps)
    made.write()
    return made


def groups(result: dict) -> dict:
    return {name: result[name] for name in ("All", "Things", "Stuff")}
