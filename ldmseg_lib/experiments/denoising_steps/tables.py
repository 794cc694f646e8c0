"""Table S2, the times behind it, the frontier over samplers, and the trajectory, from the result of notebook 06.

Its metrics hold `rows` (as `evaluation.denoising_steps.evaluate_runs` returns them), `timing` (by sampler, as
`evaluation.timing.time_pipeline` does), `trajectory` (as `evaluation.trajectory.TrajectoryStatistics.compute` does),
`sampler`, and the numbers of `images` that the table and the frontier are judged on.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..findings import agreement_along, saturation, scope
from ..records import Records, percent
from ..supplement import paper_number, supplement
from .line_fit import fit_line

STAGE = "06_denoising_steps"
TIME_DECIMALS = dict.fromkeys(("encode", "denoise", "decode", "postprocess", "total", "least", "most"), 4) | {
    "paper": 3
}
_AGNOSTIC = {f"class-agn. {key.upper()}": key for key in ("pq", "sq", "rq")}
_PANOPTIC = {key.upper(): key for key in ("pq", "sq", "rq")}


def table_s2(results: Records) -> pd.DataFrame:
    """Quality in percent and seconds an image by the number of denoising steps, beside the paper's."""
    metrics = results[STAGE]["metrics"]
    seconds = _seconds(metrics, metrics["sampler"])
    paper = supplement("table_s2").set_index("iters")
    rows = []
    for row in _rows(metrics, metrics["sampler"], metrics["images"]["table"]):
        line = {"# iters": row["steps"], **_quality(row), "time [s]": seconds.get(row["steps"])}
        theirs = paper.loc[row["steps"]] if row["steps"] in paper.index else None
        for name, column in (
            ("paper class-agn. PQ", "class_agnostic_pq"),
            ("paper mIoU", "miou"),
            ("paper PQ", "pq"),
            ("paper time [s]", "seconds"),
        ):
            line[name] = None if theirs is None else float(theirs[column])
        rows.append(line)
    return pd.DataFrame(rows)


def table_s2_findings(results: Records) -> list[str]:
    """Whether quality grows with the steps as in the paper, where it saturates in both, and the two lines of time."""
    metrics = results[STAGE]["metrics"]
    table = table_s2(results)
    sentences = []
    for quantity in ("class-agn. PQ", "PQ"):
        pairs = {str(row["# iters"]): (row[f"paper {quantity}"], row[quantity]) for row in table.to_dict("records")}
        known = {name: pair for name, pair in pairs.items() if pair[0] is not None and pair[0] == pair[0]}
        theirs, ours = ({name: pair[side] for name, pair in known.items()} for side in (0, 1))
        sentences.append(agreement_along(quantity, paper=theirs, ours=ours))
        enough = [saturation({int(name): value for name, value in side.items()}) for side in (theirs, ours)]
        if None not in enough:
            sentences.append(
                f"95 % of the best {quantity} needs {enough[0]} steps in the paper's table and {enough[1]} in this one."
            )
    sentences.append(
        f"The paper says that {paper_number('iterations_for_quality_min'):.0f} to"
        f" {paper_number('iterations_for_quality_max'):.0f} steps are needed for high quality."
    )
    record = results[STAGE]
    return [
        " ".join(sentences),
        time_fits(metrics),
        scope(record["profile"], metrics["images"]["table"]),
    ]


def time_fits(metrics: Mapping[str, Any]) -> str:
    """The line a + b x steps of the paper's table and of each sampler that was timed here."""
    paper = supplement("table_s2")
    line = fit_line(paper["iters"].tolist(), paper["seconds"].tolist())
    texts = [f"paper (RTX 4090, Table S2) {line.fixed:.3f} s + {line.per_step:.4f} s x steps"]
    for sampler, timing in metrics["timing"].items():
        if timing["fit"]:
            texts.append(f"{sampler} {timing['fit']['fixed']:.4f} s + {timing['fit']['per_step']:.4f} s x steps")
    timing = metrics["timing"][metrics["sampler"]]
    return (
        f"Time of an image, least squares: {'; '.join(texts)}. Ours: {timing['device']}, {timing['precision']}, batch"
        f" {timing['batch']}, {timing['image_size']} px, {' and '.join(timing['tasks'])} in one batch, median of"
        f" {timing['repeats']} after a warm-up."
    )


def inference_time(results: Records) -> pd.DataFrame:
    """Median seconds an image of each part, by the number of denoising steps, beside the paper's total."""
    metrics = results[STAGE]["metrics"]
    return time_table(metrics["timing"][metrics["sampler"]])


def time_table(timing: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of one timing (see `evaluation.timing.time_pipeline`) beside the paper's seconds."""
    paper = supplement("table_s2").set_index("iters")["seconds"]
    return pd.DataFrame(
        [
            {
                "# iters": row["steps"],
                **{
                    part: row[part] for part in ("encode", "denoise", "decode", "postprocess", "total", "least", "most")
                },
                "paper": float(paper[row["steps"]]) if row["steps"] in paper.index else None,
            }
            for row in timing["rows"]
        ]
    )


def inference_time_findings(results: Records) -> list[str]:
    """The two lines of time, and post-processing beside the paper's and Painter's."""
    metrics = results[STAGE]["metrics"]
    rows = metrics["timing"][metrics["sampler"]]["rows"]
    slowest = max(row["postprocess"] for row in rows)
    return [
        time_fits(metrics),
        f"Post-processing takes at most {1000 * slowest:.1f} ms of an image here; the supplement states"
        f" {1000 * paper_number('postprocessing'):.0f} ms for its own at 512 px and"
        f" {1000 * paper_number('painter_postprocessing_448'):.0f} ms for Painter's, on its machine.",
    ]


def sampler_frontier(results: Records) -> pd.DataFrame:
    """Quality and seconds of every sampler at a few numbers of steps, all on the same images."""
    metrics = results[STAGE]["metrics"]
    lines = []
    for sampler in metrics["timing"]:
        seconds = _seconds(metrics, sampler)
        for row in _rows(metrics, sampler, metrics["images"]["frontier"]):
            line = {"sampler": sampler, "# iters": row["steps"], **_quality(row), "time [s]": seconds.get(row["steps"])}
            lines.append(line)
    frame = pd.DataFrame(lines)
    return frame.drop(columns=[name for name in frame.columns if name.endswith(("SQ", "RQ"))])


def sampler_frontier_findings(results: Records) -> list[str]:
    """The best sampler at each number of steps, and how the two samplers of the paper compare."""
    frame, record = sampler_frontier(results), results[STAGE]
    bests = []
    for steps, rows in frame.groupby("# iters"):
        if rows["PQ"].notna().any():
            best = max(rows.dropna(subset="PQ").to_dict("records"), key=lambda row: row["PQ"])
            bests.append(f"{best['sampler']} at {steps} ({best['PQ']:.1f})")
    text = f"Best PQ by number of steps: {', '.join(bests)}."
    by_key = {(row["sampler"], row["# iters"]): row["PQ"] for row in frame.to_dict("records")}
    most = max(frame["# iters"])
    if (pair := (by_key.get(("ddpm", most)), by_key.get(("ddim", most))))[0] is not None and pair[1] is not None:
        paper = supplement("table_s3")["pq"].tolist()
        order = "no order" if pair[0] == pair[1] else "the same order" if pair[0] > pair[1] else "the other order"
        text += (
            f" The paper gains {paper[3] - paper[2]:.1f} PQ with DDPM over DDIM at"
            f" {paper_number('component_timesteps'):.0f} steps (Table S3); here it is"
            f" {pair[0] - pair[1]:+.1f} at {most}: {order}."
        )
    return [text, scope(record["profile"], record["metrics"]["images"]["frontier"])]


def denoising_trajectory(results: Records) -> pd.DataFrame:
    """What changes from step to step within one sampling, at the steps of Figure S5, in percent."""
    metrics = results[STAGE]["metrics"]
    steps = metrics["trajectory"]["steps"]
    shown = {count for count in metrics["shown"] if count <= len(steps)} | {1, len(steps)}
    names = {
        "grouped": "covering two",
        "changed": "pixels changed",
        "wrong": "pixels wrong",
        "kept": "errors kept",
        "lasting": "errors that last",
        "spoiled": "right, then wrong",
        "found_small": "small found",
        "found_large": "large found",
    }
    return pd.DataFrame(
        [
            {"step": row["step"], **{title: percent(row[name]) for name, title in names.items()}}
            for row in steps
            if row["step"] in shown
        ]
    )


def denoising_trajectory_findings(results: Records) -> list[str]:
    """The supplement's three claims about Figure S5, each beside its measured share."""
    metrics = results[STAGE]["metrics"]
    steps = metrics["trajectory"]["steps"]
    first, last = steps[0], steps[-1]

    def of(value: float | None) -> str:
        return "nothing" if value is None else f"{100 * value:.1f} %"

    return [
        f'"It\'s unlikely that different instances will be grouped": of the predicted segments that cover a true one,'
        f" {of(last['grouped'])} cover two or more at the end ({of(first['grouped'])} after the first step).",
        f'"Not reinforcing mistakes": of the pixels wrong after the first step {of(first["lasting"])} are wrong at the'
        f" end, and of those right then {of(first['spoiled'])} have become wrong; pixels wrong went from"
        f" {of(first['wrong'])} to {of(last['wrong'])}. In the last step {of(last['changed'])} of the pixels changed.",
        f'"Capturing small objects": of the true segments under {metrics["trajectory"]["small_area"] or 0:.0f} pixels'
        f" {of(first['found_small'])} were found after the first step and {of(last['found_small'])} at the end; of the"
        f" larger ones {of(first['found_large'])} and {of(last['found_large'])}.",
    ]


def _rows(metrics: Mapping[str, Any], sampler: str, images: int) -> list[Mapping[str, Any]]:
    chosen = [row for row in metrics["rows"] if row["sampler"] == sampler and row["images"] == images]
    return sorted(chosen, key=lambda row: row["steps"])


def _seconds(metrics: Mapping[str, Any], sampler: str) -> dict[int, float]:
    return {row["steps"]: row["total"] for row in metrics["timing"][sampler]["rows"]}


def _quality(row: Mapping[str, Any]) -> dict[str, float | None]:
    agnostic, panoptic = row["class_agnostic"]["All"], row["panoptic"]
    return {
        **{name: percent(agnostic[key]) for name, key in _AGNOSTIC.items()},
        "mIoU": percent(row["miou"]),
        **{name: percent(panoptic["All"][key]) for name, key in _PANOPTIC.items()},
        "PQ things": percent(panoptic["Things"]["pq"]),
        "PQ stuff": percent(panoptic["Stuff"]["pq"]),
    }
