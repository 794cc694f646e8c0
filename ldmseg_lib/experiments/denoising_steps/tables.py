"""Table S2, latencies, the frontier over samplers, and the trajectory, from the result of notebook 06.

Its metrics hold `rows` (as `study.evaluate_runs` returns them), `timing` (by sampler, as `timing.time_pipeline` does),
`trajectory` (as `trajectory.TrajectoryStatistics.compute` does), `sampler`, and the numbers of `images` that the table
and the frontier are evaluated on.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..findings import agreement_along, saturation, scope
from ..records import Records, percent, quality_columns
from ..supplement import paper_number, supplement

STAGE = "06_denoising_steps"
_TIMES = ("encode", "denoise", "decode", "postprocess", "total", "least", "most")
TIME_DECIMALS = dict.fromkeys(_TIMES, 4) | {"paper": 3}
# columns of the paper's Table S2, by ours
_PAPER = {"class-agn. PQ": "class_agnostic_pq", "mIoU": "miou", "PQ": "pq", "time [s]": "seconds"}
# columns of the trajectory, by the name of the share in the result
_TRAJECTORY = {
    "grouped": "merged segments",
    "changed": "pixels changed",
    "wrong": "pixel error",
    "kept": "errors retained",
    "lasting": "persistent errors",
    "spoiled": "newly wrong",
    "found_small": "recall, small",
    "found_large": "recall, large",
}


def table_s2(results: Records) -> pd.DataFrame:
    """Quality in percent and seconds an image by the number of denoising steps, beside the paper's."""
    metrics = results[STAGE]["metrics"]
    table = _quality(metrics, metrics["sampler"], metrics["images"]["table"])
    paper = supplement("table_s2").set_index("iters").reindex(table["# iters"])
    return table.assign(**{f"paper {name}": paper[column].to_numpy(float) for name, column in _PAPER.items()})


def table_s2_findings(results: Records) -> list[str]:
    """Whether quality grows with the steps as in the paper, where it saturates in both, and the two lines of time."""
    metrics = results[STAGE]["metrics"]
    table = table_s2(results)
    sentences = []
    for quantity in ("class-agn. PQ", "PQ"):
        theirs, ours = (table.set_index("# iters")[name].to_dict() for name in (f"paper {quantity}", quantity))
        sentences.append(agreement_along(quantity, paper=theirs, ours=ours))
        common = [steps for steps, value in theirs.items() if pd.notna(value)]
        enough = [saturation({steps: side[steps] for steps in common}) for side in (theirs, ours)]
        if None not in enough:
            sentences.append(
                f"95 % of the best {quantity} needs {enough[0]} steps in the paper's table and {enough[1]} in this one."
            )
    sentences.append(
        f"The paper says that {paper_number('iterations_for_quality_min'):.0f} to"
        f" {paper_number('iterations_for_quality_max'):.0f} steps are needed for high quality."
    )
    return [" ".join(sentences), time_fits(metrics), scope(results[STAGE]["profile"], metrics["images"]["table"])]


def time_fits(metrics: Mapping[str, Any]) -> str:
    """The line a + b x steps of the paper's table and of each sampler that was timed here."""
    paper = supplement("table_s2")
    per_step, fixed = np.polyfit(paper["iters"], paper["seconds"], 1)
    texts = [f"paper (RTX 4090, Table S2) {fixed:.3f} s + {per_step:.4f} s x steps"]
    texts += [
        f"{sampler} {timing['fit']['fixed']:.4f} s + {timing['fit']['per_step']:.4f} s x steps"
        for sampler, timing in metrics["timing"].items()
        if timing["fit"]
    ]
    timing = metrics["timing"][metrics["sampler"]]
    return (
        f"Latency per image, least squares: {'; '.join(texts)}. Ours: {timing['device']}, {timing['precision']}, batch"
        f" {timing['batch']}, {timing['image_size']} px, {' and '.join(timing['tasks'])} in one batch, median of"
        f" {timing['repeats']} after a warm-up."
    )


def inference_time(results: Records) -> pd.DataFrame:
    """Median latency per image of each part, by the number of denoising steps, beside the paper's total."""
    metrics = results[STAGE]["metrics"]
    return time_table(metrics["timing"][metrics["sampler"]])


def time_table(timing: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of one timing (see `timing.time_pipeline`) beside the paper's seconds."""
    table = pd.DataFrame(timing["rows"])[["steps", *_TIMES]].rename(columns={"steps": "# iters"})
    paper = supplement("table_s2").set_index("iters")["seconds"]
    return table.assign(paper=table["# iters"].map(paper))


def inference_time_findings(results: Records) -> list[str]:
    """The two lines of time, and post-processing beside the paper's and Painter's."""
    metrics = results[STAGE]["metrics"]
    rows = metrics["timing"][metrics["sampler"]]["rows"]
    slowest = max(row["postprocess"] for row in rows)
    return [
        time_fits(metrics),
        f"Post-processing takes at most {1000 * slowest:.1f} ms per image here; the supplement states"
        f" {1000 * paper_number('postprocessing'):.0f} ms for its own at 512 px and"
        f" {1000 * paper_number('painter_postprocessing_448'):.0f} ms for Painter's, on its machine.",
    ]


def sampler_frontier(results: Records) -> pd.DataFrame:
    """Quality and latency of every sampler at a few numbers of steps, all on the same images."""
    metrics = results[STAGE]["metrics"]
    tables = {name: _quality(metrics, name, metrics["images"]["frontier"], keys=("pq",)) for name in metrics["timing"]}
    return pd.concat(tables, names=["sampler"]).reset_index("sampler").reset_index(drop=True)


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
    shown = {*metrics["shown"], 1, len(steps)}
    return pd.DataFrame(
        [
            {"step": row["step"], **{title: percent(row[name]) for name, title in _TRAJECTORY.items()}}
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


def _quality(
    metrics: Mapping[str, Any], sampler: str, images: int, *, keys: Sequence[str] = ("pq", "sq", "rq")
) -> pd.DataFrame:
    """Quality in percent and latency by the number of steps, of one sampler on so many images."""
    seconds = {row["steps"]: row["total"] for row in metrics["timing"][sampler]["rows"]}
    chosen = [row for row in metrics["rows"] if row["sampler"] == sampler and row["images"] == images]
    return pd.DataFrame(
        [
            {
                "# iters": row["steps"],
                **quality_columns(row, keys, things_and_stuff=True),
                "time [s]": seconds.get(row["steps"]),
            }
            for row in sorted(chosen, key=lambda row: row["steps"])
        ]
    )
