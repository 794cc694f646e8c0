"""Tables of notebook 07: what they say follows from the results, in either direction."""

import copy

import pandas as pd
import pytest

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.experiments.components import tables as component_tables
from ldmseg_lib.experiments.components.plots import feature_sheet, id_order_curves, size_curves
from ldmseg_lib.experiments.supplement import supplement
from ldmseg_lib.reproduction.results import build_table, write_tables
from tests.experiments.figure_checks import problems

EDGES = ((0, 63), (64, 255), (256, None))


def scores(pq: float, agnostic: float | None = None, recalls=(0.1, 0.5, 0.9)) -> dict:
    sizes = [
        {"min_area": low, "max_area": high, "pq": recall / 2, "recall": recall, "tp": 4, "fn": 6}
        for (low, high), recall in zip(EDGES, recalls)
    ]
    parts = {name: {"pq": pq, "sq": 0.8, "rq": 0.5} for name in ("panoptic", "things", "stuff")}
    agnostic = pq / 2 if agnostic is None else agnostic
    return {
        "class_agnostic": {"pq": agnostic, "sq": 0.8, "rq": 0.5},
        "sizes": sizes,
        **parts,
        "miou": 0.6,
        "images": 64,
    }


def made(pq: float, **more) -> dict:
    return {"training": "diffusion-1", "steps": 50, "sampler": "ddim", "averaged": True, "scores": scores(pq)} | more


def conditions(pq: float) -> list:
    found = {region: {"pq": pq} for region in ("hidden", "whole")}
    nearest = {region: {"pq": 0.4} for region in ("hidden", "whole")}
    row = {"block": 1, "pixels": 4, "rate": 0.5}
    return [row | {"scores": {"inpainting": found, "nearest known label": nearest}}]


def records(*, table=(0.2, 0.25, 0.3, 0.35), weights="trained by this notebook", fine=(0.3, 0.6, 0.9)) -> dict:
    encoder = {"weights": "trained by this notebook", "parameters": 9, "out_channels": 4, "training": {"steps": 10}}
    probe = {"most_frequent": 0.2, "channels": 4}
    rows = [
        ("image_autoencoder", "ddim", False),
        ("image_autoencoder", "ddim", True),
        ("vit", "ddim", True),
        ("vit", "ddpm", True),
    ]
    metrics = {
        "encoders": {
            "image_autoencoder": encoder
            | {"label": "small VAE", "probe": probe | {"class_accuracy": 0.5, "pixels_explained": 0.9}},
            "vit": encoder | {"label": "small ViT", "probe": probe | {"class_accuracy": 0.8, "pixels_explained": 0.6}},
        },
        "table_s3": [
            made(pq, encoder=name, sampler=sampler, averaged=averaged)
            for pq, (name, sampler, averaged) in zip(table, rows)
        ],
        "rows": [
            made(0.30, group="loss of small timesteps", name="lowered (the paper)"),
            made(0.28, group="loss of small timesteps", name="as it is"),
            made(0.30, group="prediction", name="noise (the paper)"),
            made(0.40, group="prediction", name="x0"),
        ],
        "id_orders": [
            made(0.3, order=order, steps=steps) | {"scores": scores(0.3, agnostic)}
            for order, values in (("random", (0.1, 0.4)), ("by position", (0.3, 0.35)))
            for steps, agnostic in zip((1, 20), values)
        ],
        "inpainting": {"random": conditions(0.5), "by position": conditions(0.3)},
        "latents": [
            {"factor": f, "reconstruction": scores(0.9, recalls=r), "prediction": made(0.3) | {"scores": scores(0.3)}}
            for f, r in ((4, fine), (8, (0.1, 0.5, 0.8)))
        ],
        "images": 64,
        "weights": weights,
        "notes": [],
    }
    return {
        component_tables.STAGE: {
            "metrics": metrics,
            "profile": "demo",
            "seed": 0,
            "device": "a processor",
            "weights": weights,
            "parameters": {"data": {"image_size": 64, "train_scenes": 9, "val_scenes": 9}},
        }
    }


def test_table_s3_stands_row_by_row_beside_the_supplement() -> None:
    table, paper = build_table("table_s3", records()), supplement("table_s3")
    assert table["PQ"].tolist() == pytest.approx([20, 25, 30, 35])
    assert table["paper PQ"].tolist() == paper["pq"].tolist()
    assert table["scheduler"].tolist() == paper["scheduler"].tolist() and table["EMA"].tolist() == paper["ema"].tolist()
    # the stand-ins are called by their own names
    assert table["image encoder"].tolist() == ["small VAE", "small VAE", "small ViT", "small ViT"]


def test_whether_the_order_agrees_is_computed() -> None:
    order, steps, _ = component_tables.table_s3_findings(records())
    assert "the order of the rows agrees (6 of 6 pairs)" in order
    assert "EMA +0.3 in the paper and +5.0 here" in steps and "DDPM instead of DDIM +0.6 in the paper" in steps
    order, steps, _ = component_tables.table_s3_findings(records(table=(0.3, 0.35, 0.2, 0.25)))
    assert "does not agree (2 of 6 pairs)" in order
    assert "semantic instead of reconstructive features +3.1 in the paper and -15.0 here" in steps


def test_the_gain_of_the_lowered_loss_stands_beside_the_supplement_s() -> None:
    first = component_tables.loss_components_findings(records())[0]
    assert "gains 0.3 to 0.5 PQ" in first and "+2.0: the sign agrees" in first
    known = records()
    known[component_tables.STAGE]["metrics"]["rows"][1]["scores"] = scores(0.33)
    assert "-3.0: the sign does not agree" in component_tables.loss_components_findings(known)[0]


def test_orders_of_ids_are_compared_at_each_step_count_and_in_inpainting() -> None:
    table = build_table("id_orders", records())
    assert table["# iters"].tolist() == [1, 20]
    assert table["class-agn. PQ, by position"].tolist() == pytest.approx([30, 35])
    first, second, _ = component_tables.id_orders_findings(records())
    assert "+20.0 at 1 step;" in first and "-5.0 at 20 steps" in first and "better at 1." in first
    assert "costs 20.0 PQ" in second
    assert build_table("id_order_inpainting", records())["hidden region: ids random"].tolist() == pytest.approx([50])


def test_segment_sizes_say_who_finds_small_ones() -> None:
    table = build_table("latent_resolution", records())
    assert table["area, px"].tolist() == ["0 to 63", "64 to 255", "256 and more", "all"]
    assert table["f = 4, autoencoder recall"].tolist()[:3] == pytest.approx([30, 60, 90])
    assert table["segments"].tolist()[:3] == [10, 10, 10]
    text = " ".join(component_tables.latent_resolution_findings(records()))
    assert "30 % of the segments of 0 to 63 px" in text and "finer latents find more of the smallest" in text
    text = component_tables.latent_resolution_findings(records(fine=(0.05, 0.6, 0.9)))[1]
    assert "finer latents find no more of the smallest" in text


def test_encoders_are_compared_by_linear_probes() -> None:
    (text,) = component_tables.image_encoders_findings(records())
    assert "predicts more of the classes" in text and "explain more of the pixels" in text
    known = records()
    encoders = known[component_tables.STAGE]["metrics"]["encoders"]
    encoders["vit"]["probe"] = encoders["vit"]["probe"] | {"class_accuracy": 0.4}
    assert "predicts no more of the classes" in component_tables.image_encoders_findings(known)[0]


def test_no_table_comes_from_weights_of_unknown_origin(capsys, tmp_path) -> None:
    known = records(weights="a tiny checkpoint")
    with pytest.raises(InputError, match="unknown origin"):
        build_table("table_s3", known)
    assert not write_tables(known, tmp_path) and "table_s3 is left out" in capsys.readouterr().err


def test_tables_do_not_change_their_records(tmp_path) -> None:
    known = records()
    before = copy.deepcopy(known)
    assert {file.stem for file in write_tables(known, tmp_path)} == {
        *("table_s3", "image_encoders", "loss_components", "id_orders", "id_order_inpainting", "latent_resolution"),
    }
    assert known == before


def test_values_that_are_not_defined_make_no_figure_fail() -> None:
    known = records()
    metrics = known[component_tables.STAGE]["metrics"]
    metrics["latents"][0]["prediction"]["scores"]["sizes"][0] |= {"pq": None, "recall": None}
    assert len(size_curves(metrics["latents"]).axes) == 1
    table: pd.DataFrame = build_table("id_orders", known)
    assert len(id_order_curves(table).axes) == 2 and not problems(id_order_curves(table))
    build_table("latent_resolution", known)


def test_a_feature_sheet_has_a_picture_of_each_kind_in_each_row() -> None:
    import numpy as np

    figure = feature_sheet({"image": np.zeros((2, 8, 8, 3)), "features": np.ones((2, 4, 4, 3))})
    assert len(figure.axes) == 4 and figure.axes[1].get_title() == "features"
