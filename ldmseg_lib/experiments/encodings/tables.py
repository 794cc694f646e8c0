"""Table S1 and the comparison of palettes, from the result of notebook 03.

Its metrics hold `trainings`, as `study.study_encodings` returns them.
"""

import numpy as np
import pandas as pd

from ..findings import order_of_rows, scope
from ..records import Records
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
    table = _summary(results).loc[list(_ROWS)].rename(index=_ROWS)
    paper = supplement("table_s1").set_index("encoding")
    table["paper mIoU"], table["paper PQ"] = paper["miou"].astype(float), paper["pq"].astype(float)
    return table.rename_axis("encoding").reset_index()


def table_s1_findings(results: Records) -> list[str]:
    """The order of the encodings in the paper and in this run, and under which conditions it was measured."""
    table, record = table_s1(results).set_index("encoding"), results[STAGE]
    order = " ".join(
        order_of_rows(
            quantity,
            paper=table[f"paper {quantity}"].to_dict(),
            ours=table[quantity].to_dict(),
            spread=table[f"{quantity} std"].to_dict(),
        )
        for quantity in ("PQ", "mIoU")
    )
    settings = record["parameters"]["encodings"]
    maps = f"thresholded at {settings['threshold']}" if settings["threshold"] else "by the arg max alone"
    seeds = len({row["seed"] for row in record["metrics"]["trainings"]})
    spread = (
        "One seed: there is no standard deviation, and small differences say nothing."
        if seeds == 1
        else f"Mean and standard deviation over {seeds} seeds."
    )
    size = f"Id maps of {settings['image_size']} px, 256 ids, evaluated {maps}."
    return [order, f"{size} {spread} {scope(record['profile'], record['metrics']['images'])}"]


def color_palettes(results: Records) -> pd.DataFrame:
    """Reconstruction by palette of the colour encoding, the one of Table S1 first."""
    summary = _summary(results)
    table = summary.loc[[name for name in _PALETTES if name in summary.index]]
    paper = supplement("table_s1").set_index("encoding")["pq"]["color encoding"]
    table["paper PQ"] = np.where(table.index == "colors", float(paper), np.nan)
    return table.rename(index=_PALETTES).rename_axis("palette").reset_index()


def color_palettes_findings(results: Records) -> list[str]:
    """Whether the palette matters: the range over palettes beside the deviation over seeds and the gap to bits."""
    table, bits = color_palettes(results).set_index("palette"), _summary(results)["PQ"].get("bits")
    known = table["PQ"].dropna()
    if len(known) < 2:
        return ["There are fewer than two palettes to compare."]
    best, worst = known.max(), known.min()
    text = (
        "The paper supposes that colours depend on the palette and does not try a second one. Here PQ runs from"
        f" {worst:.1f} ({known.idxmin()}) to {best:.1f} ({known.idxmax()}), a range of"
        f" {round(best, 1) - round(worst, 1):.1f}"
    )
    deviation = table["PQ std"].max()
    if pd.notna(deviation):
        verdict = "more" if best - worst > 2 * deviation else "no more"
        text += f", {verdict} than twice the largest standard deviation over seeds ({deviation:.1f})"
    if pd.notna(bits):
        above = [f"{name} ({value:.1f})" for name, value in known.items() if value > bits]
        better = f"better than that: {', '.join(above)}" if above else "no palette is better"
        text += f". Bits have {bits:.1f}; {better}"
    return [text + "."]


def _summary(results: Records) -> pd.DataFrame:
    """By encoding: its channels, margin and parameters; mean and sample standard deviation over seeds, in percent."""
    trainings = pd.DataFrame(results[STAGE]["metrics"]["trainings"]).groupby("encoding")
    summary = trainings[["input_channels", "separation", "parameters"]].first()
    summary.columns = ["channels", "margin", "parameters"]
    for name, key in (("mIoU", "miou"), ("PQ", "pq")):
        scores = trainings[key]
        summary[name] = 100 * scores.agg(lambda values: values.astype(float).mean())
        summary[f"{name} std"] = 100 * scores.agg(lambda values: values.astype(float).std())
    return summary
