"""What a table shows, in sentences computed from it: the paper's order of rows, ours, and whether they agree."""

import itertools
from collections.abc import Mapping, Sequence

Row = Mapping[str, float | None]  # row name to value, larger is better


def order_of_rows(quantity: str, *, paper: Row, ours: Row, spread: Row | None = None) -> str:
    """One sentence on the order of the rows that both have a value for.

    Args:
        quantity: what is compared, such as "PQ".
        paper: the paper's values, in percent.
        ours: this run's.
        spread: standard deviations of ours; pairs of rows that are no farther apart than these are named as open.
    """
    names = [name for name in paper if paper[name] is not None and ours.get(name) is not None]
    if len(names) < 2:
        return f"By {quantity} there are fewer than two rows to compare."
    pairs = [pair for pair in itertools.combinations(names, 2) if paper[pair[0]] != paper[pair[1]]]
    agreeing = sum(_sign(paper, a, b) == _sign(ours, a, b) for a, b in pairs)
    verdict = "the order of the rows agrees" if agreeing == len(pairs) else "the order of the rows does not agree"
    text = (
        f"By {quantity} the paper has {_ranked(names, paper)}; this run has {_ranked(names, ours)}: {verdict}"
        f" ({agreeing} of {len(pairs)} pairs)."
    )
    if spread is not None:
        known = {name: spread.get(name) or 0.0 for name in names}
        known_ours = {name: ours[name] or 0.0 for name in names}
        close = [f"{a} and {b}" for a, b in pairs if abs(known_ours[a] - known_ours[b]) <= max(known[a], known[b])]
        if close:
            text += f" Closer than the standard deviation over seeds, and so undecided: {', '.join(close)}."
    return text


def agreement_along(quantity: str, *, paper: Row, ours: Row) -> str:
    """One sentence on many rows whose order is a trend, such as step counts: pairs in the same order, and the best."""
    names = [name for name in paper if paper[name] is not None and ours.get(name) is not None]
    pairs = [pair for pair in itertools.combinations(names, 2) if paper[pair[0]] != paper[pair[1]]]
    if not pairs:
        return f"By {quantity} there are no two rows to compare."
    agreeing = sum(_sign(paper, a, b) == _sign(ours, a, b) for a, b in pairs)
    verdict = "agrees" if agreeing == len(pairs) else "does not agree everywhere"
    return (
        f"By {quantity} the order of the rows {verdict}: {agreeing} of {len(pairs)} pairs of rows stand in the paper's"
        " order."
    )


def saturation(values: Mapping[int, float | None], *, share: float = 0.95) -> int | None:
    """The least number of steps that reaches `share` of the best value; None where nothing is above 0."""
    known = {steps: value for steps, value in values.items() if value is not None}
    if not known or max(known.values()) <= 0:
        return None
    return min(steps for steps, value in known.items() if value >= share * max(known.values()))


def scope(profile: str, images: int | None = None) -> str:
    """What a table of this profile can show, and what it cannot."""
    judged = f" Judged on {images} images, which leaves room for chance." if images and images < 500 else ""
    if profile == "smoke":
        return "A smoke run shows that every step works, and nothing else."
    if profile in ("demo", "gpu"):
        return (
            "Networks trained for minutes on drawn scenes can show the order of rows and the shape of curves, not the"
            " paper's level." + judged
        )
    return judged.strip()


def _sign(row: Row, first: str, second: str) -> int:
    a, b = row[first] or 0.0, row[second] or 0.0
    return (a > b) - (a < b)


def _ranked(names: Sequence[str], row: Row) -> str:
    """The rows from the best to the worst, with "=" between those that are exactly equal."""
    ranked = sorted(names, key=lambda name: -(row[name] or 0.0))
    text = f"{ranked[0]} ({row[ranked[0]]:.1f})"
    for before, name in itertools.pairwise(ranked):
        text += f" {'=' if row[before] == row[name] else '>'} {name} ({row[name]:.1f})"
    return text
