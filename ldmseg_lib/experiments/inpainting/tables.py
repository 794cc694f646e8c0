"""Tables of notebook 10, whose metrics hold `conditions`, as `study.evaluate_inpainting` returns them."""

import itertools
from typing import Any

import pandas as pd

from ..records import Records, percent
from ..supplement import supplement

STAGE = "10_mask_inpainting"
_REGIONS = {"whole": "", "hidden": "hidden region: "}  # in metrics, and in column names


def mask_inpainting(results: Records) -> pd.DataFrame:
    """Class-agnostic PQ of inpainted masks, the mean over drop rates for each block size, beside the paper's number."""
    conditions = results[STAGE]["metrics"]["conditions"]
    rows = []
    for block, pixels in sorted({(c["block"], c["pixels"]) for c in conditions}):
        chosen = [c for c in conditions if c["block"] == block]
        row: dict[str, Any] = {"blocks": f"{block} x {block} cells, {pixels} px"}
        for (region, prefix), method in itertools.product(_REGIONS.items(), chosen[0]["scores"]):
            values = [c["scores"][method][region]["pq"] for c in chosen]
            known = [value for value in values if value is not None]
            row[prefix + method] = percent(sum(known) / len(known)) if known else None
        rows.append(row)
    paper = supplement("headline").query("setting == 'mask inpainting'").iloc[0]
    rows.append({"blocks": f"paper, COCO, 16 px ({paper['source']} source)", "inpainting": float(paper["value"])})
    return pd.DataFrame(rows)


def mask_inpainting_findings(results: Records) -> list[str]:
    """For which blocks the model is ahead of each baseline, over whole images and in the hidden region alone."""
    table = mask_inpainting(results)
    table = table[~table["blocks"].str.startswith("paper")]
    sentences = []
    for region, prefix in _REGIONS.items():
        where = "Over whole images" if region == "whole" else "In the hidden region alone"
        for baseline in ("nearest known label", "no mask given"):
            pairs = table[["blocks", prefix + "inpainting", prefix + baseline]].dropna()
            ahead = [str(row[0]).split(", ")[-1] for row in pairs.itertuples(index=False) if row[1] > row[2]]
            count = {0: "no block size", len(pairs): "every block size"}.get(len(ahead), f"blocks of {_listed(ahead)}")
            sentences.append(f"{where} the model is better than *{baseline}* for {count}.")
    return [" ".join(sentences)]


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def mask_inpainting_rates(results: Records) -> pd.DataFrame:
    """Class-agnostic PQ of inpainted masks for each block size and drop rate (see `mask_inpainting`)."""
    rows = []
    for condition in results[STAGE]["metrics"]["conditions"]:
        row = {
            "cells": condition["block"],
            "px": condition["pixels"],
            "rate": percent(condition["rate"]),
            "hidden pixels": percent(condition["dropped"]),
        }
        for (region, prefix), method in itertools.product(_REGIONS.items(), condition["scores"]):
            row[prefix + method] = percent(condition["scores"][method][region]["pq"])
        rows.append(row)
    return pd.DataFrame(rows)
