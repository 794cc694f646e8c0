"""The supplement's own numbers: read from tables/supplement/*.csv, and from nowhere else."""

import difflib

import pandas as pd

from ..core import paths
from ..core.errors import InputError


def supplement(name: str) -> pd.DataFrame:
    """One of the supplement's tables as a frame.

    Args:
        name: "table_s1", "table_s2", "table_s3"; "numbers" (what the text states, with its place); "headline" (numbers
            of the main paper from secondary sources, marked so); "captions" (place and caption of each of these).

    Raises:
        InputError: no such table.
    """
    file = paths.SUPPLEMENT / f"{name}.csv"
    if not file.exists():
        known = sorted(path.stem for path in paths.SUPPLEMENT.glob("*.csv"))
        raise InputError(f"{file}: no such table; there are {', '.join(known) or 'none'}")
    return pd.read_csv(file)


def paper_number(name: str) -> float:
    """A number that the supplement's text states, such as "threshold"; see tables/supplement/numbers.csv.

    Raises:
        InputError: no such name, with the nearest one.
    """
    values = supplement("numbers").set_index("name")["value"]
    if name not in values:
        near = difflib.get_close_matches(name, list(values.index), n=1)
        raise InputError(f"numbers.csv has no {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return float(values[name])
