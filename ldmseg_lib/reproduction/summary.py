"""The short table of README.md: what a run reached, beside the pretrained weights, the baseline and the paper."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ..core.errors import InputError
from ..experiments.records import Records, percent
from ..experiments.supplement import supplement
from ..pipeline.pretrained import embedded_folder

COLUMNS = ("model", "n", "class-agn. PQ", "PQ", "mIoU")
_STUDENT_STEPS = 4


def summary(results: Records) -> pd.DataFrame:
    """Class-agnostic PQ, PQ and mIoU in percent on `n` held-out images, one row a model; at most six rows."""
    rows: list[tuple[Any, ...]] = []

    def add(model: str, n: Any, scores: Mapping[str, Any]) -> None:
        pq = (percent(scores[kind]["All"]["pq"]) for kind in ("class_agnostic", "panoptic"))
        rows.append((model, n, *pq, percent(scores["miou"])))

    if "05_panoptic_evaluation" in results:
        record = results["05_panoptic_evaluation"]
        steps = record["parameters"]["evaluation"]["num_inference_steps"]
        add(f"this run, one sample of {steps} steps", _images(record), record["metrics"]["variants"][-1])
    if "12_few_steps" in results:
        metrics = results["12_few_steps"]["metrics"]
        for row in metrics["student"]:
            if row["steps"] == _STUDENT_STEPS:
                add(f"this run, distilled to {_STUDENT_STEPS} steps", row["images"], row)
    if "09_mask2former_baseline" in results:
        record = results["09_mask2former_baseline"]
        best = max(record["metrics"]["models"], key=lambda model: model["panoptic"]["All"]["pq"] or 0.0)
        add(f"Mask2Former here, {best['name']} features", _images(record), best)
    rows += _pretrained()
    paper = supplement("table_s2").set_index("iters")[["class_agnostic_pq", "pq", "miou"]]
    rows.append(("paper, COCO, 50 steps", 5000, *paper.loc[[50]].to_numpy()[0].tolist()))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _images(record: Mapping[str, Any]) -> int | None:
    """How many held-out images the evaluation section of a record's profile asks for."""
    parameters = record["parameters"]
    return parameters["evaluation"].get("num_images") or parameters["data"]["val_scenes"]


def _pretrained() -> list[tuple[Any, ...]]:
    """The rows of the pretrained weights, one sample and consensus, from their model card."""
    try:
        card = (Path(embedded_folder()) / "README.md").read_text(encoding="utf-8")
    except (InputError, OSError):
        return []
    values = {name: float(value) for name, value in re.findall(r"^\| ([^|]+?) \| ([\d.]+) \|$", card, flags=re.M)}
    scenes = re.search(r"the (\d+) scenes of (.*?), from", card)
    if scenes is None:
        return []
    several = {name.partition(", ")[2] for name in values if ", consensus of " in name}
    rows = []
    for how in ("one sample", *sorted(several)):
        suffix = "" if how == "one sample" else f", {how}"
        scores = [values.get(f"{name}{suffix}") for name in ("class-agnostic PQ", "panoptic PQ", "mIoU")]
        rows.append((f"pretrained weights, {how}", int(scenes[1]), *scores))
    return rows
