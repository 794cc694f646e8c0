"""The tables of notebook 12: the distilled student beside its teacher, and the consensus of several samples.

Its metrics hold `teacher` and `student`: rows as `denoising_steps.study.evaluate_runs` returns them; `timing`: by
"teacher" and "student", as `denoising_steps.timing.time_samplers` does; `agreement`: as
`agreement.AgreementScores.compute` does; `images`, `samples` and `sampled_steps`.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..findings import scope
from ..records import Records, percent, quality_columns
from ..supplement import supplement

STAGE = "12_few_steps"
_GOALS = {4: 0.98, 1: 0.85}  # share of the teacher's quality that a few-step student should reach
_RELATIVE = "relative to teacher"


def few_steps(results: Records) -> pd.DataFrame:
    """Quality in percent, also relative to the teacher with most steps, and latency, by model and steps."""
    metrics = results[STAGE]["metrics"]
    paper = supplement("table_s2").set_index("iters")["class_agnostic_pq"]
    sampler = metrics["teacher"][0]["sampler"]
    longest = max((row for row in metrics["teacher"] if row["sampler"] == sampler), key=lambda row: row["steps"])
    best = longest["class_agnostic"]["All"]["pq"]
    rows = []
    for model in ("teacher", "student"):
        for row in metrics[model]:
            steps, timed = row["steps"], metrics["timing"][model].get(row["sampler"], {"rows": []})
            published = paper.get(steps) if (model, row["sampler"]) == ("teacher", sampler) else None
            quality = quality_columns(row, ("pq",))
            pq = quality.pop("class-agn. PQ")
            rows.append(
                {
                    "model": model,
                    "sampler": row["sampler"],
                    "# iters": steps,
                    "class-agn. PQ": pq,
                    _RELATIVE: pq / best if pq is not None and best else None,
                    **quality,
                    "time [s]": next((time["total"] for time in timed["rows"] if time["steps"] == steps), None),
                    "paper class-agn. PQ": published,
                }
            )
    return pd.DataFrame(rows)


def few_steps_findings(results: Records) -> list[str]:
    """Quality of the student with 4 steps and with 1, relative to the teacher with most steps, beside the paper's."""
    record = results[STAGE]
    table = few_steps(results)
    paper = supplement("table_s2").set_index("iters")["class_agnostic_pq"]
    longest = max(row["steps"] for row in record["metrics"]["teacher"])
    # of each model by its first sampler
    first = {model: record["metrics"][model][0]["sampler"] for model in ("teacher", "student")}
    shares = {
        (row["model"], row["# iters"]): row[_RELATIVE]
        for row in table.to_dict("records")
        if row["sampler"] == first[row["model"]]
    }
    paper_longest = paper[longest] if longest in paper else paper.max()
    sentences = []
    for steps, goal in _GOALS.items():
        student, teacher = shares.get(("student", steps)), shares.get(("teacher", steps))
        if pd.isna(student):
            continue
        before = "" if pd.isna(teacher) else f" (the teacher {teacher:.0f} %)"
        theirs = f"; the paper's model keeps {100 * paper[steps] / paper_longest:.0f} % there" if steps in paper else ""
        reached = "reached" if student >= 100 * goal else "not reached"
        sentences.append(
            f"With {steps} step{'s' * (steps > 1)} the student keeps {student:.0f} % of the class-agnostic PQ that the"
            f" teacher has with {longest} steps of {first['teacher']}{before}{theirs}."
            f" The aim of {100 * goal:.0f} % is {reached}."
        )
    return [" ".join(sentences), scope(record["profile"], record["metrics"]["images"])]


def few_step_trials(found: Mapping[str, Any]) -> pd.DataFrame:
    """Class-agnostic PQ in percent of students that were distilled in other ways, by denoising steps.

    Args:
        found: what `benchmarks/few_step_trials.py` writes.
    """
    counts = sorted({int(steps) for trial in found["trials"].values() for steps in trial["scores"]})
    return pd.DataFrame(
        [
            {
                "trial": name,
                "training steps": trial["steps"],
                "minutes": trial["seconds"] / 60,
                **{
                    f"{count} step{'s' * (count > 1)}": trial["scores"].get(str(count), {}).get("class-agn. PQ")
                    for count in counts
                },
            }
            for name, trial in found["trials"].items()
        ]
    )


def sample_consensus(results: Records) -> pd.DataFrame:
    """Single samples, the sample that the others agree with most, and the vote of all, in percent."""
    metrics = results[STAGE]["metrics"]
    names = {
        "single": f"single sample, mean of {metrics['samples']}",
        "reference": "the sample that the others agree with most",
        "consensus": f"consensus of {metrics['samples']}",
    }
    return pd.DataFrame(
        [
            {"prediction": names[name], **quality_columns(score)}
            for name, score in metrics["agreement"]["scores"].items()
        ]
    )


def sample_consensus_findings(results: Records) -> list[str]:
    """Whether the consensus beats a single sample, and how well agreement separates correct from wrong pixels."""
    record = results[STAGE]
    found = record["metrics"]["agreement"]
    quality = {name: percent(score["class_agnostic"]["All"]["pq"]) for name, score in found["scores"].items()}
    sentences = []
    if quality["single"] is not None and quality["consensus"] is not None:
        verdict = "beats" if quality["consensus"] > quality["single"] else "does not beat"
        sentences.append(
            f"The consensus {verdict} the single sample: class-agnostic PQ {quality['consensus']:.1f} against"
            f" {quality['single']:.1f}."
        )
    if found["auroc"] is not None:
        sentences.append(
            f"A wrong pixel has less agreement than a correct one with probability {found['auroc']:.2f} (area under the"
            " ROC curve; 0.5 would be chance)."
        )
    if found["correlation"] is not None:
        sentences.append(
            "Between an image's mean agreement and its share of wrong pixels Spearman's correlation is"
            f" {found['correlation']:.2f}."
        )
    return [" ".join(sentences), scope(record["profile"], found["images"])]


def agreement_levels(results: Records) -> pd.DataFrame:
    """For each number of agreeing samples: the share of pixels that have it, and the share of those that is correct."""
    levels = results[STAGE]["metrics"]["agreement"]["levels"]
    total = sum(level["pixels"] for level in levels)
    return pd.DataFrame(
        {
            "samples that agree": [level["agreeing"] for level in levels],
            "pixels": [percent(level["pixels"] / total) for level in levels],
            "correct": [percent(level["right"]) for level in levels],
        }
    )
