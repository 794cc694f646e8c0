"""Table S1: means and deviations over seeds beside the paper's numbers, and findings that follow them."""

from typing import Any

import numpy as np
import pytest

from ldmseg_lib.experiments.encodings import tables as encoding_tables
from ldmseg_lib.experiments.encodings.plots import palette_sheet
from ldmseg_lib.experiments.supplement import supplement
from ldmseg_lib.models.encodings import get_encoding
from ldmseg_lib.reproduction.results import build_table, write_tables

STAGE = encoding_tables.STAGE


def records(scores: dict[str, list[float]], profile: str = "demo") -> dict[str, Any]:
    """A result of notebook 03 with the given PQ of each encoding, one value a seed."""
    trainings = [
        {
            "encoding": name, "seed": seed, "input_channels": 8, "separation": 0.5, "parameters": 1000,
            "pq": pq, "sq": 0.9, "rq": 0.9, "miou": pq + 0.05, "loss": 1.0, "steps": 9,
        }
        for name, values in scores.items()
        for seed, pq in enumerate(values)
    ]  # fmt: skip
    training = {"steps": 77, "batch_size": 3}
    parameters = {
        "data": {"image_size": 64, "train_scenes": 40, "val_scenes": 8},
        "encodings": {"image_size": 32, "threshold": 0.0, "training": training},
        "autoencoder": {"training": {"steps": 1, "batch_size": 1}},
    }
    return {
        STAGE: {
            "profile": profile, "seed": 0, "device": "a processor", "data": None, "parameters": parameters,
            "key": "3" * 64, "inputs": {}, "weights": "trained by this notebook",
            "metrics": {"trainings": trainings, "images": 128, "notes": []},
        }
    }  # fmt: skip


GOOD = {"bits": [0.60, 0.64], "colors": [0.50, 0.50], "positional": [0.40, 0.46]}


def test_rows_are_the_papers_with_mean_and_deviation_over_seeds() -> None:
    table = build_table("table_s1", records(GOOD))
    paper = supplement("table_s1")
    assert table["encoding"].tolist() == paper["encoding"].tolist()
    assert table["paper PQ"].tolist() == paper["pq"].tolist()
    assert table["paper mIoU"].tolist() == paper["miou"].tolist()
    assert table["PQ"].tolist() == pytest.approx([62, 50, 43]) and table["mIoU"].tolist() == pytest.approx([67, 55, 48])
    deviations = [np.std([60, 64], ddof=1), 0, np.std([40, 46], ddof=1)]
    assert table["PQ std"].tolist() == pytest.approx(deviations)


def test_one_seed_has_no_deviation_and_says_so(tmp_path) -> None:
    known = records({name: values[:1] for name, values in GOOD.items()})
    assert build_table("table_s1", known)["PQ std"].isna().all()
    assert "Id maps of 32 px, 256 ids, evaluated by the arg max alone" in encoding_tables.table_s1_findings(known)[1]
    assert "One seed" in encoding_tables.table_s1_findings(known)[1]
    assert "Mean and standard deviation over 2 seeds" in encoding_tables.table_s1_findings(records(GOOD))[1]


def test_findings_say_whether_the_order_is_the_papers() -> None:
    text = encoding_tables.table_s1_findings(records(GOOD))[0]
    assert "the paper has bit encoding (89.9) > color encoding (89.1) > positional encoding (88.2)" in text
    assert "By PQ" in text and "By mIoU" in text and text.count("the order of the rows agrees (3 of 3 pairs)") == 2
    other = encoding_tables.table_s1_findings(records(GOOD | {"colors": [0.7, 0.7]}))[0]
    assert "does not agree (2 of 3 pairs)" in other
    close = encoding_tables.table_s1_findings(records(GOOD | {"colors": [0.61, 0.61]}))[0]
    assert "undecided: bit encoding and color encoding" in close


def test_palettes_stand_beside_each_other_with_the_range_between_them() -> None:
    known = records(GOOD | {"colors_grey": [0.30, 0.32], "colors_random": [0.63, 0.65]})
    table = build_table("color_palettes", known)
    assert table["palette"].tolist() == ["lattice of 8 x 8 x 4 (Table S1)", "random", "greys"]
    assert table["paper PQ"].iloc[0] == 89.1 and table["paper PQ"].iloc[1:].isna().all()
    text = encoding_tables.color_palettes_findings(known)[0]
    assert "from 31.0 (greys) to 64.0 (random), a range of 33.0, more than twice" in text
    assert "Bits have 62.0; better than that: random (64.0)." in text
    one = encoding_tables.color_palettes_findings(records(GOOD))[0]
    assert "fewer than two palettes" in one


def test_the_caption_names_the_budget_of_these_trainings_and_of_no_others(tmp_path) -> None:
    write_tables(records(GOOD), tmp_path)
    text = (tmp_path / "table_s1.md").read_text()
    assert "encodings: 77 steps of batch 3" in text and "autoencoder: 1 steps" not in text
    assert "not the paper's level" in text and "128 images" in text
    write_tables(records(GOOD, "smoke"), tmp_path)
    assert "mean nothing" in (tmp_path / "table_s1.md").read_text()


def test_the_sheet_shows_every_colour_at_its_id() -> None:
    colors = get_encoding("colors", 256).codebook.numpy()
    (ax,) = palette_sheet({"colors": colors}).axes
    cells = np.asarray(ax.images[0].get_array()).reshape(256, 3)
    assert np.allclose(cells[1:], (colors[1:] + 1) / 2) and np.allclose(cells[0], 0.5)
