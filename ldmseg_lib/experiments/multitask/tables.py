"""The multi-task table, from the result of notebook 08, beside the paper's numbers (supplement A).

Its metrics hold `models` (as `multitask_study.MultitaskStudy.judge` returns them, the compared ones first), the name of
the multi-task one as `multitask`, that of the one without depth as `before`, the `depth_autoencoder`, `added` (the task
that the notebook adds: its model and its labels) and the number of `images`.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..findings import scope
from ..records import Records, percent
from ..supplement import supplement

STAGE = "08_multitask"
SAMPLES = ("instance samples", "semantic samples", "depth samples")
PQ_GOAL, DEPTH_GOAL = 0.85, 0.5
"""Shares of the two-task model's PQ, and of the constant prediction's AbsRel."""


def multitask(results: Records) -> pd.DataFrame:
    """One line a model: training samples of each task, scores in percent; then what bounds depth, and the paper."""
    metrics = results[STAGE]["metrics"]
    rows = []
    for model in metrics["models"]:
        scores, depth = model["scores"], model["scores"].get("depth", {})
        rows.append(
            {
                "model": model["name"],
                **{column: model["samples"].get(column.partition(" ")[0]) for column in SAMPLES},
                "class-agn. PQ": _pq(scores.get("instance", {}).get("class_agnostic")),
                "mIoU": percent(scores.get("semantic", {}).get("miou")),
                "PQ": _pq(scores.get("panoptic", {}).get("panoptic")),
                "AbsRel": percent(depth.get("abs_rel")),
                "delta1": percent(depth.get("delta1")),
            }
        )
    for name, errors in (
        ("constant depth", _constant(metrics)),
        ("depth autoencoder alone", metrics["depth_autoencoder"]["reconstruction"]),
    ):
        rows.append({"model": name, "AbsRel": percent(errors["abs_rel"]), "delta1": percent(errors["delta1"])})
    paper = supplement("table_s2").query("iters == 50").iloc[0]
    rows.append(
        {
            "model": "paper, COCO, without depth (Table S2, 50 steps)",
            "class-agn. PQ": float(paper["class_agnostic_pq"]),
            "mIoU": float(paper["miou"]),
            "PQ": float(paper["pq"]),
        }
    )
    joint = _paper_joint()
    rows.append({"model": f"paper, COCO, multi-task ({joint['source']} source)", "PQ": float(joint["value"])})
    return pd.DataFrame(rows).astype(dict.fromkeys(SAMPLES, float))


def joint_pq(results: Records) -> tuple[float | None, float]:
    """PQ in percent of the model that has learned all tasks: this run's and the paper's."""
    metrics = results[STAGE]["metrics"]
    joint = next(model for model in metrics["models"] if model["name"] == metrics["multitask"])
    return _pq(joint["scores"].get("panoptic", {}).get("panoptic")), float(_paper_joint()["value"])


def multitask_findings(results: Records) -> list[str]:
    """What learning depth beside the others cost in PQ, here and in the paper, and what the depth is worth."""
    record = results[STAGE]
    metrics, rows = record["metrics"], multitask(results).set_index("model")
    joint, before = rows.loc[metrics["multitask"]], rows.loc[metrics["before"]]
    paper = rows["PQ"].dropna().tail(2)
    sentences = []
    if _known(joint["PQ"]) and _known(before["PQ"]) and before["PQ"] > 0:
        kept = joint["PQ"] / before["PQ"]
        reached = "within" if kept >= PQ_GOAL else "not within"
        sentences.append(
            f"With depth PQ is {joint['PQ']:.1f} and without {before['PQ']:.1f}, {_change(kept)}: {reached} the 15 %"
            f" that were the goal. In the paper it is {paper.iloc[1]:.1f} against {paper.iloc[0]:.1f},"
            f" {_change(paper.iloc[1] / paper.iloc[0])}."
        )
    share = joint["AbsRel"] / rows.loc["constant depth", "AbsRel"]
    if _known(share):
        reached = "which reaches" if share <= DEPTH_GOAL else "which misses"
        sentences.append(
            f"After alignment AbsRel is {joint['AbsRel']:.1f} %, {share:.2f} times that of a constant,"
            f" {reached} the goal of half."
        )
    alone = metrics.get("depth_alone")
    if alone is not None:
        sentences.append(
            f"A model that learned depth alone from as many depth samples has AbsRel {rows.loc[alone, 'AbsRel']:.1f} %."
        )
    limits = scope(record["profile"], metrics["images"])
    return [*sentences, *([limits] if limits else [])]


def _paper_joint() -> pd.Series:
    return supplement("headline").query("setting == 'panoptic multi-task'").iloc[0]


def _pq(quality: Mapping[str, Any] | None) -> float | None:
    return None if quality is None else percent(quality["All"]["pq"])


def _constant(metrics: Mapping[str, Any]) -> Mapping[str, float | None]:
    return next(model["scores"]["depth"]["constant"] for model in metrics["models"] if "depth" in model["scores"])


def _change(share: float) -> str:
    return f"{100 * abs(1 - share):.1f} % {'less' if share < 1 else 'more'}"


def _known(value: Any) -> bool:
    return value is not None and value == value
