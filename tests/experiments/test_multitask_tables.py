"""The multi-task table: whose numbers stand where, and whether its sentences say what it shows."""

from typing import Any

import pytest

from ldmseg_lib.experiments.multitask.tables import SAMPLES, STAGE, joint_pq, multitask, multitask_findings
from ldmseg_lib.reproduction.results import as_text
from ldmseg_lib.reproduction.tables import ours_and_paper


def quality(pq: float) -> dict[str, Any]:
    return {"All": {"pq": pq, "sq": 0.7, "rq": 0.5, "n": 3}}


def segmentation(pq: float) -> dict[str, Any]:
    return {
        "instance": {"class_agnostic": quality(pq - 0.1)},
        "semantic": {"miou": 0.6},
        "panoptic": {"panoptic": quality(pq)},
    }


def depth(abs_rel: float) -> dict[str, Any]:
    return {"abs_rel": abs_rel, "delta1": 0.8, "constant": {"abs_rel": 0.5, "delta1": 0.3}, "n": 8, "skipped": 0}


def records(*, before: float = 0.4, joint: float = 0.38, abs_rel: float = 0.2, profile: str = "demo") -> dict[str, Any]:
    models = [
        {"name": "two", "samples": {"instance": 900, "semantic": 500}, "scores": segmentation(before)},
        {"name": "depth alone", "samples": {"instance": 900, "depth": 300}, "scores": {"depth": depth(0.15)}},
        {
            "name": "all tasks",
            "samples": {"instance": 1000, "semantic": 600, "depth": 300},
            "scores": segmentation(joint) | {"depth": depth(abs_rel)},
        },
    ]
    metrics = {
        "models": models,
        "before": "two",
        "multitask": "all tasks",
        "depth_alone": "depth alone",
        "depth_autoencoder": {"reconstruction": depth(0.02)},
        "images": 128,
    }
    return {STAGE: {"metrics": metrics, "profile": profile}}


def test_every_number_stands_in_its_row() -> None:
    table = multitask(records())
    text = as_text(table, dict.fromkeys(SAMPLES, 0)).set_index("model")
    assert text.loc["all tasks"].tolist() == ["1000", "600", "300", "28.0", "60.0", "38.0", "20.0", "80.0"]
    assert text.loc["two"].tolist() == ["900", "500", "", "30.0", "60.0", "40.0", "", ""]
    assert text.loc["depth alone", "PQ"] == "" and text.loc["depth alone", "AbsRel"] == "15.0"
    assert text.loc["constant depth", ["AbsRel", "delta1"]].tolist() == ["50.0", "30.0"]
    assert text.loc["depth autoencoder alone", "AbsRel"] == "2.0"
    paper = [row for row in text.index if row.startswith("paper")]
    assert [text.loc[row, "PQ"] for row in paper] == ["44.3", "44.1"] and "secondary" in paper[1]


@pytest.mark.parametrize(
    ("before", "joint", "abs_rel", "pq_text", "depth_text"),
    [
        (0.4, 0.38, 0.2, "5.0 % less: within the 15 %", "0.40 times that of a constant, which reaches"),
        (0.4, 0.30, 0.3, "25.0 % less: not within the 15 %", "0.60 times that of a constant, which misses"),
        (0.4, 0.44, 0.25, "10.0 % more: within the 15 %", "0.50 times that of a constant, which reaches"),
    ],
)
def test_the_goals_are_judged_as_they_are(before, joint, abs_rel, pq_text, depth_text) -> None:
    sentences = multitask_findings(records(before=before, joint=joint, abs_rel=abs_rel))
    assert pq_text in sentences[0] and "44.1 against 44.3, 0.5 % less" in sentences[0]
    assert depth_text in sentences[1]
    assert "15.0 %" in sentences[2]


def test_a_model_that_found_nothing_makes_no_sentence_of_shares() -> None:
    assert not any("PQ is" in sentence for sentence in multitask_findings(records(before=0.0)))


def test_the_joint_model_stands_beside_the_paper_s_in_the_last_table() -> None:
    ours, paper = joint_pq(records(joint=0.38))
    assert (round(ours or 0.0, 6), paper) == (38.0, 44.1)
    row = ours_and_paper(records()).set_index("quantity").loc["panoptic PQ, multi-task"]
    assert row["paper"] == 44.1 and "secondary" in row["place in the supplement"]
