"""Table S1 and the comparison of palettes, from the result of notebook 03.

Its metrics hold `trainings`, as `training.encoding_study.study_encodings` returns them.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ..findings import order_of_rows, scope
from ..records import Records, percent
from ..supplement import supplement

STAGE = "03_encodings"
_ROWS = {"bits": "bit encoding", "colors": "color encoding", "positional": "positional encoding"}
_PALETTES = {
    "colors": "lattice of 8 x 8 x 4 (Table S1)",
    "colors_cube": "lattice, 256 of 7 x 7 x 7",
    "colors_random": "random",
    "colors_hue": "circle of hues",
    "colors_grey": "greys",
}


def table_s1(results: Records) -> pd.DataFrame:
    """Reconstruction by encoding: mean and standard deviation over seeds in percent, beside the paper's."""
    paper = supplement("table_s1").set_index("encoding")
    rows = []
    for encoding, name in _ROWS.items():
        row = {"encoding": name, **_described(results, encoding), **_scores(results, encoding)}
        rows.append(row | {"paper mIoU": float(paper["miou"][name]), "paper PQ": float(paper["pq"][name])})
    return pd.DataFrame(rows)


def table_s1_findings(results: Records) -> list[str]:
    """The paper's order of the encodings, ours, whether they agree, and what that is worth."""
    paper = supplement("table_s1").set_index("encoding")
    sentences = []
    for quantity, column in (("PQ", "pq"), ("mIoU", "miou")):
        ours = {name: _scores(results, encoding) for encoding, name in _ROWS.items()}
        sentences.append(
            order_of_rows(
                quantity,
                paper={name: float(paper[column][name]) for name in ours},
                ours={name: scores[quantity] for name, scores in ours.items()},
                spread={name: scores[f"{quantity} std"] for name, scores in ours.items()},
            )
        )
    record = results[STAGE]
    settings = record["parameters"]["encodings"]
    judged = f"thresholded at {settings['threshold']}" if settings["threshold"] else "by the arg max alone"
    size = f"Id maps of {settings['image_size']} px, 256 ids, judged {judged}."
    return [" ".join(sentences), f"{size} {_seeds(results)} {scope(record['profile'], record['metrics']['images'])}"]


def color_palettes(results: Records) -> pd.DataFrame:
    """Reconstruction by palette of the colour encoding, the one of Table S1 first."""
    paper = supplement("table_s1").set_index("encoding")
    rows = []
    for encoding in _palettes(results):
        row = {"palette": _PALETTES[encoding], **_described(results, encoding), **_scores(results, encoding)}
        rows.append(row | {"paper PQ": float(paper["pq"]["color encoding"]) if encoding == "colors" else None})
    return pd.DataFrame(rows)


def color_palettes_findings(results: Records) -> list[str]:
    """Whether the palette matters: the range over palettes beside the deviation over seeds and the gap to bits."""
    scores = {encoding: _scores(results, encoding) for encoding in _palettes(results)}
    known = {encoding: value["PQ"] for encoding, value in scores.items() if value["PQ"] is not None}
    if len(known) < 2:
        return ["There are fewer than two palettes to compare."]
    best, worst = max(known, key=known.__getitem__), min(known, key=known.__getitem__)
    text = (
        "The paper supposes that colours depend on the palette and does not try a second one. Here PQ runs from"
        f" {known[worst]:.1f} ({_PALETTES[worst]}) to {known[best]:.1f} ({_PALETTES[best]}), a range of"
        f" {round(known[best], 1) - round(known[worst], 1):.1f}"
    )
    deviations = [value["PQ std"] for value in scores.values() if value["PQ std"] is not None]
    if deviations:
        verdict = "more" if known[best] - known[worst] > 2 * max(deviations) else "no more"
        text += f", {verdict} than twice the largest standard deviation over seeds ({max(deviations):.1f})"
    bits = _scores(results, "bits")["PQ"]
    if bits is not None:
        above = [f"{_PALETTES[name]} ({value:.1f})" for name, value in known.items() if value > bits]
        better = f"better than that: {', '.join(above)}" if above else "no palette is better"
        text += f". Bits have {bits:.1f}; {better}"
    return [text + "."]


def _trainings(results: Records, encoding: str) -> list[Mapping[str, Any]]:
    return [row for row in results[STAGE]["metrics"]["trainings"] if row["encoding"] == encoding]


def _palettes(results: Records) -> list[str]:
    present = {row["encoding"] for row in results[STAGE]["metrics"]["trainings"]}
    return [encoding for encoding in _PALETTES if encoding in present]


def _described(results: Records, encoding: str) -> dict[str, Any]:
    first = _trainings(results, encoding)[0]
    return {
        "channels": first["input_channels"],
        "separation": first["separation"],
        "parameters": first["parameters"],
    }


def _scores(results: Records, encoding: str) -> dict[str, float | None]:
    rows = _trainings(results, encoding)
    scores: dict[str, float | None] = {}
    for name, key in (("mIoU", "miou"), ("PQ", "pq")):
        values = [value for row in rows if (value := percent(row[key])) is not None]
        scores[name] = statistics.fmean(values) if values else None
        scores[f"{name} std"] = _deviation(values)
    return scores


def _deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


def _seeds(results: Records) -> str:
    seeds = sorted({row["seed"] for row in results[STAGE]["metrics"]["trainings"]})
    if len(seeds) == 1:
        return "One seed: there is no standard deviation, and small differences say nothing."
    return f"Mean and standard deviation over {len(seeds)} seeds."
