"""The table of the Mask2Former baselines beside LDMSeg, from the results of notebooks 02, 04, 05 and 09.

The metrics of notebook 09 hold `models` (what `Mask2FormerStudy.judge` returned for each) and `ldmseg` (what
`measure_pipeline` returned).
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..records import Records, percent
from ..supplement import supplement

STAGE = "09_mask2former_baseline"
STAGES = ("02_autoencoder", "04_diffusion", "05_panoptic_evaluation", STAGE)
TIME_DECIMALS = {"parameters [M]": 2, "pretraining [s]": 0, "training [s]": 0, "s / image": 3}
PQ_GOAL = 0.5


def mask2former(results: Records) -> pd.DataFrame:
    """One line a model, in percent, millions of parameters and seconds; then the published numbers, on COCO."""
    record = results[STAGE]
    rows = [
        {
            "model": f"Mask2Former, ViT, {model['name']} features",
            **_scores(model),
            "parameters [M]": model["parameters"] / 1e6,
            "pretraining [s]": (model["pretraining"] or {}).get("seconds"),
            "training [s]": model["training"]["seconds"],
            "s / image": model["seconds_per_image"],
        }
        for model in record["metrics"]["models"]
    ]
    ldmseg = record["metrics"]["ldmseg"]
    trainings = [results[stage]["metrics"]["training"]["seconds"] for stage in STAGES[:2]]
    rows.append(
        {
            "model": f"LDMSeg, {ldmseg['num_inference_steps']} steps",
            **_scores(results["05_panoptic_evaluation"]["metrics"]["variants"][-1]),
            "parameters [M]": ldmseg["parameters"] / 1e6,
            "training [s]": float(sum(trainings)),
            "s / image": ldmseg["seconds_per_image"],
        }
    )
    rows += published()
    return pd.DataFrame(rows)


def published() -> list[dict[str, Any]]:
    """What others and the paper published for COCO, each with its source."""
    headline = supplement("headline")
    quoted = headline[(headline["setting"] == "panoptic") & headline["method"].str.startswith("Mask2Former")]
    rows = [
        {"model": f"published, COCO: {row['method']} ({row['source']} source)", "PQ": float(row["value"])}
        for _, row in quoted.iterrows()
    ]
    paper = supplement("table_s2").query("iters == 50").iloc[0]
    rows.append(
        {
            "model": "published, COCO: LDMSeg, 50 steps (Table S2)",
            "class-agn. PQ": float(paper["class_agnostic_pq"]),
            "PQ": float(paper["pq"]),
            "mIoU": float(paper["miou"]),
        }
    )
    return rows


def mask2former_findings(results: Records) -> list[str]:
    """How far LDMSeg is from the baselines here, and in the published numbers."""
    models = results[STAGE]["metrics"]["models"]
    ours = results["05_panoptic_evaluation"]["metrics"]["variants"][-1]["panoptic"]["All"]["pq"]
    best = max(models, key=lambda model: model["panoptic"]["All"]["pq"])
    quality = best["panoptic"]["All"]["pq"]
    found = [
        f"The better baseline ({best['name']} features) has a panoptic PQ of {100 * quality:.1f} after"
        f" {best['training']['seconds']:.0f} s of training, LDMSeg {100 * ours:.1f}; the goal for the baseline in demo"
        f" is {100 * PQ_GOAL:.0f}."
    ]
    quoted = {row["model"]: row["PQ"] for row in published()}
    others = {name: value for name, value in quoted.items() if "Mask2Former" in name}
    (paper,) = (value for name, value in quoted.items() if "LDMSeg" in name)
    gaps = ", ".join(f"{value - paper:.1f} behind {name.partition(': ')[2]}" for name, value in others.items())
    found.append(f"On COCO the published LDMSeg ({paper:.1f}) is {gaps}.")
    return found


def _scores(scores: Mapping[str, Any]) -> dict[str, float | None]:
    panoptic = scores["panoptic"]
    return {
        "class-agn. PQ": percent(scores["class_agnostic"]["All"]["pq"]),
        "PQ": percent(panoptic["All"]["pq"]),
        "PQ things": percent(panoptic["Things"]["pq"]),
        "PQ stuff": percent(panoptic["Stuff"]["pq"]),
        "mIoU": percent(scores["miou"]),
    }
