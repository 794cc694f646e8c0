"""Tables and figures of notebook 12 from made-up results."""

import numpy as np
import pytest

from ldmseg_lib.experiments.few_steps.plots import agreement_sheet, few_step_curves, reliability_curve
from ldmseg_lib.experiments.few_steps.tables import (
    STAGE,
    agreement_levels,
    few_step_trials,
    few_steps,
    few_steps_findings,
    sample_consensus,
    sample_consensus_findings,
)
from tests.experiments.figure_checks import problems


def quality(pq: float | None) -> dict:
    score = {"pq": pq, "sq": 0.8, "rq": pq, "n": 1}
    return {"class_agnostic": {"All": score}, "panoptic": {"All": score, "Things": score, "Stuff": score}, "miou": 0.5}


def row(steps: int, pq: float, sampler: str = "ddim") -> dict:
    return {"sampler": sampler, "steps": steps, "images": 10, **quality(pq)}


@pytest.fixture
def results() -> dict:
    times = {"rows": [{"steps": steps, "total": 0.1 * steps} for steps in (1, 4, 50)]}
    metrics = {
        "teacher": [row(1, 0.1), row(4, 0.3), row(50, 0.4), row(4, 0.5, "unipc")],
        "student": [row(1, 0.36, "consistency"), row(4, 0.38, "consistency")],
        "timing": {"teacher": {"ddim": times, "unipc": times}, "student": {"consistency": times}},
        "images": 10,
        "samples": 4,
        "agreement": {
            "scores": {"single": quality(0.4), "reference": quality(0.42), "consensus": quality(0.45)},
            "levels": [
                {"agreeing": 2, "pixels": 25, "right": 0.4},
                {"agreeing": 4, "pixels": 75, "right": 0.9},
            ],
            "auroc": 0.81,
            "correlation": -0.6,
            "images": 10,
        },
    }
    return {STAGE: {"metrics": metrics, "profile": "demo"}}


def test_quality_is_relative_to_the_teacher_with_most_steps(results):
    table = few_steps(results).set_index(["sampler", "# iters"])
    assert table["relative to teacher"].to_dict() == pytest.approx(
        {
            ("ddim", 1): 25,
            ("ddim", 4): 75,
            ("ddim", 50): 100,
            ("unipc", 4): 125,
            ("consistency", 1): 90,
            ("consistency", 4): 95,
        }
    )
    paper = table["paper class-agn. PQ"]
    assert paper["ddim", 50] > 0 and paper.isna()["consistency", 4] and paper.isna()["unipc", 4]
    assert table["time [s]"]["consistency", 4] == pytest.approx(0.4)


def test_aims_are_reached_or_not_by_the_numbers(results):
    text = few_steps_findings(results)[0]
    assert "With 4 steps the student keeps 95 %" in text and "aim of 98 % is not reached" in text
    assert "With 1 step the student keeps 90 %" in text and "(the teacher 25 %)" in text
    assert "aim of 85 % is reached" in text
    results[STAGE]["metrics"]["student"] = [row(2, 0.3, "consistency")]
    assert few_steps_findings(results)[0] == ""


def test_a_teacher_without_any_match_has_no_shares(results):
    results[STAGE]["metrics"]["teacher"][2] = row(50, 0.0)
    assert few_steps(results)["relative to teacher"].isna().all()
    assert few_steps_findings(results)


def test_trials_stand_side_by_side_at_the_steps_that_they_were_judged_at():
    scores = {"1": {"class-agn. PQ": 20.0, "PQ": 30.0}, "4": {"class-agn. PQ": 40.0, "PQ": 45.0}}
    trials = {
        "plain": {"steps": 300, "seconds": 90, "scores": scores},
        "one link": {"steps": 100, "seconds": 60, "scores": {"1": scores["1"]}},
    }
    table = few_step_trials({"trials": trials}).set_index("trial")
    assert table["1 step"].tolist() == [20, 20] and table["minutes"].tolist() == [1.5, 1]
    assert table["4 steps"]["plain"] == 40 and table["4 steps"].isna()["one link"]


def test_the_consensus_stands_beside_the_single_sample(results):
    assert sample_consensus(results)["class-agn. PQ"].tolist() == pytest.approx([40, 42, 45])
    text = sample_consensus_findings(results)[0]
    assert "beats the single sample" in text and "0.81" in text and "-0.60" in text
    results[STAGE]["metrics"]["agreement"]["scores"]["consensus"] = quality(0.3)
    assert "does not beat" in sample_consensus_findings(results)[0]


def test_levels_of_agreement_are_shares_of_all_pixels(results):
    table = agreement_levels(results)
    assert table["pixels"].tolist() == [25, 75] and table["correct"].tolist() == pytest.approx([40, 90])


def test_figures_show_every_row(results):
    curves = few_step_curves(few_steps(results))
    assert [len(line.get_xdata()) for line in curves.axes[0].lines] == [3, 1, 2]
    reliability = reliability_curve(agreement_levels(results))
    assert len(reliability.axes[0].patches) == 2
    assert not problems(curves) and not problems(reliability)
    ids = np.array([[0, 1], [2, 2]])
    image = np.zeros((2, 2, 3), np.uint8)
    sheet = agreement_sheet([(image, ids, [ids, ids], ids, np.ones((2, 2)))] * 3)
    assert len(sheet.axes) == 3 * 6
    assert [ax.get_title() for ax in sheet.axes[:6]][-2:] == ["consensus", "agreement"]
