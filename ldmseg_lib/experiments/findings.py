"""Sentences computed from a table: the order of its rows in the paper and in this run, and whether they agree."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

Row = Mapping[Any, float | None]  # row name to value, larger is better


def order_of_rows(quantity: str, *, paper: Row, ours: Row, spread: Row | None = None) -> str:
    """One sentence on the order of the rows that both have a value for.

    Args:
        quantity: what is compared, such as "PQ".
        paper: the paper's values, in percent.
        ours: this run's.
        spread: standard deviations of ours; pairs of rows that differ by no more than these are named as undecided.
    """
    paper, ours = _common(paper, ours)
    if len(paper) < 2:
        return f"By {quantity} there are fewer than two rows to compare."
    pairs, agreeing = _ordered_pairs(paper, ours)
    verdict = "agrees" if agreeing == len(pairs) else "does not agree"
    text = (
        f"By {quantity} the paper has {_ranked(paper)}; this run has {_ranked(ours)}: the order of the rows {verdict}"
        f" ({agreeing} of {len(pairs)} pairs)."
    )
    deviations = {name: value for name, value in (spread or {}).items() if pd.notna(value)}
    close = [
        f"{a} and {b}"
        for a, b in pairs
        if spread is not None and abs(ours[a] - ours[b]) <= max(deviations.get(a, 0.0), deviations.get(b, 0.0))
    ]
    if close:
        text += f" Closer than the standard deviation over seeds, and so undecided: {', '.join(close)}."
    return text


def agreement_along(quantity: str, *, paper: Row, ours: Row) -> str:
    """One sentence on many rows whose order is a trend, such as step counts: how many pairs have the paper's order."""
    pairs, agreeing = _ordered_pairs(*_common(paper, ours))
    if not pairs:
        return f"By {quantity} there are no two rows to compare."
    verdict = "agrees" if agreeing == len(pairs) else "does not agree everywhere"
    return (
        f"By {quantity} the order of the rows {verdict}: {agreeing} of {len(pairs)} pairs of rows are in the paper's"
        " order."
    )


def saturation(values: Row, *, share: float = 0.95) -> int | None:
    """The smallest number of steps that reaches `share` of the best value; None where nothing is above 0."""
    known = {steps: value for steps, value in values.items() if value is not None and pd.notna(value)}
    if max(known.values(), default=0.0) <= 0:
        return None
    return min(steps for steps, value in known.items() if value >= share * max(known.values()))


def scope(profile: str, images: int | None = None) -> str:
    """What a table of this profile can show, and what it cannot."""
    judged = f" Evaluated on {images} images: small differences may be chance." if images and images < 500 else ""
    if profile == "smoke":
        return "A smoke run shows that every step works, and nothing else."
    if profile in ("demo", "gpu"):
        return (
            "Networks trained for minutes on rendered scenes can show the order of rows and the shape of curves, not"
            " the paper's level." + judged
        )
    return judged.strip()


def _common(paper: Row, ours: Row) -> tuple[dict[str, float], dict[str, float]]:
    """The rows that both have a value for, in the paper's order."""
    names = [name for name in paper if pd.notna(paper[name]) and pd.notna(ours.get(name))]
    paper_values, our_values = ({name: float(row[name] or 0.0) for name in names} for row in (paper, ours))
    return paper_values, our_values


def _ordered_pairs(paper: Mapping[str, float], ours: Mapping[str, float]) -> tuple[list[tuple[str, str]], int]:
    """The pairs of rows that differ in the paper, and how many of them are in the same order here."""
    pairs = [(a, b) for a, b in itertools.combinations(paper, 2) if paper[a] != paper[b]]
    return pairs, sum(bool(np.sign(paper[a] - paper[b]) == np.sign(ours[a] - ours[b])) for a, b in pairs)


def _ranked(row: Mapping[str, float]) -> str:
    """The rows from the best to the worst, with "=" between those that are exactly equal."""
    ranked = sorted(row, key=lambda name: -row[name])
    text = f"{ranked[0]} ({row[ranked[0]]:.1f})"
    for before, name in itertools.pairwise(ranked):
        text += f" {'=' if row[before] == row[name] else '>'} {name} ({row[name]:.1f})"
    return text
