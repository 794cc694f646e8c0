"""The tables of notebook 12: the distilled student beside its teacher, and several samples as evidence.

Its metrics hold `teacher` and `student`: rows as `evaluation.denoising_steps.evaluate_runs` returns them; `timing`: by
"teacher" and "student", as `evaluation.timing.time_samplers` does; `agreement`: as
`evaluation.agreement.AgreementScores.compute` does; `images`, `samples` and `sampled_steps`.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..findings import scope
from ..records import Records, percent
from ..supplement import supplement

STAGE = "12_few_steps"
_SHARES = {4: 0.98, 1: 0.85}  # what a few-step model is hoped to keep of its teacher's longest sampling


def few_steps(results: Records) -> pd.DataFrame:
    """Quality in percent, the share of the teacher's longest sampling that it is, and seconds, by model and steps."""
    metrics = results[STAGE]["metrics"]
    paper = supplement("table_s2").set_index("iters")
    longest = _at_most_steps(metrics)
    rows = []
    for model in ("teacher", "student"):
        seconds = {
            (sampler, row["steps"]): row["total"]
            for sampler, timed in metrics["timing"][model].items()
            for row in timed["rows"]
        }
        for row in metrics[model]:
            pq = row["class_agnostic"]["All"]["pq"]
            steps = row["steps"]
            known = model == "teacher" and row["sampler"] == metrics[model][0]["sampler"] and steps in paper.index
            rows.append(
                {
                    "model": model,
                    "sampler": row["sampler"],
                    "# iters": steps,
                    "class-agn. PQ": percent(pq),
                    "of the teacher's longest": percent(pq / longest) if pq is not None and longest else None,
                    "mIoU": percent(row["miou"]),
                    "PQ": percent(row["panoptic"]["All"]["pq"]),
                    "time [s]": seconds.get((row["sampler"], steps)),
                    "paper class-agn. PQ": float(paper["class_agnostic_pq"][steps]) if known else None,
                }
            )
    return pd.DataFrame(rows)


def few_steps_findings(results: Records) -> list[str]:
    """What the student keeps of the teacher's longest sampling with 4 steps and with 1, beside teacher and paper."""
    record = results[STAGE]
    table = few_steps(results)
    paper = supplement("table_s2").set_index("iters")["class_agnostic_pq"]
    longest = max(row["steps"] for row in record["metrics"]["teacher"])
    # of each model by its first sampler
    first = {model: record["metrics"][model][0]["sampler"] for model in ("teacher", "student")}
    shares = {
        (row["model"], row["# iters"]): row["of the teacher's longest"]
        for row in table.to_dict("records")
        if row["sampler"] == first[row["model"]]
    }
    paper_longest = paper[longest] if longest in paper else paper.max()
    sentences = []
    for steps, goal in _SHARES.items():
        student, teacher = shares.get(("student", steps)), shares.get(("teacher", steps))
        if student is None or student != student:
            continue
        before = "" if teacher is None or teacher != teacher else f" (the teacher {teacher:.0f} %)"
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
            {
                "prediction": names[name],
                **{f"class-agn. {key.upper()}": percent(score["class_agnostic"]["All"][key]) for key in _KEYS},
                "mIoU": percent(score["miou"]),
                **{key.upper(): percent(score["panoptic"]["All"][key]) for key in _KEYS},
            }
            for name, score in metrics["agreement"]["scores"].items()
        ]
    )


def sample_consensus_findings(results: Records) -> list[str]:
    """Whether the vote beats a single sample, and how well agreement tells right pixels from wrong ones."""
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
            f"A wrong pixel has less agreement than a right one with probability {found['auroc']:.2f} (area under the"
            " ROC curve; 0.5 would be chance)."
        )
    if found["correlation"] is not None:
        sentences.append(
            "Between an image's mean agreement and its share of wrong pixels Spearman's correlation is"
            f" {found['correlation']:.2f}."
        )
    return [" ".join(sentences), scope(record["profile"], found["images"])]


def agreement_levels(results: Records) -> pd.DataFrame:
    """For each number of agreeing samples: the share of pixels that have it, and the share of those that is right."""
    levels = results[STAGE]["metrics"]["agreement"]["levels"]
    total = sum(level["pixels"] for level in levels)
    return pd.DataFrame(
        [
            {
                "samples that agree": level["agreeing"],
                "pixels": percent(level["pixels"] / total),
                "right": percent(level["right"]),
            }
            for level in levels
        ]
    )


_KEYS = ("pq", "sq", "rq")


def _at_most_steps(metrics: Mapping[str, Any]) -> float | None:
    """The teacher's class-agnostic PQ at its largest number of steps of its first sampler."""
    rows = [row for row in metrics["teacher"] if row["sampler"] == metrics["teacher"][0]["sampler"]]
    return max(rows, key=lambda row: row["steps"])["class_agnostic"]["All"]["pq"]
