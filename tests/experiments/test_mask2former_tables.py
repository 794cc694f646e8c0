"""The baseline's table: our rows from result records, and the published numbers quoted as such."""

import pytest

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.experiments.mask2former.tables import STAGE, STAGES, mask2former, mask2former_findings, published
from ldmseg_lib.experiments.supplement import supplement
from ldmseg_lib.reproduction.results import build_table, write_table
from ldmseg_lib.reproduction.tables import TABLES


def scores(pq: float) -> dict:
    panoptic = {"All": {"pq": pq}, "Things": {"pq": pq - 0.1}, "Stuff": {"pq": None}}
    return {"class_agnostic": {"All": {"pq": pq + 0.1}}, "panoptic": panoptic, "miou": pq + 0.2}


def records() -> dict[str, dict]:
    def model(name: str, pq: float, pretraining: dict | None) -> dict:
        training = {"seconds": 240.0}
        return {"name": name, **scores(pq), "training": training, "pretraining": pretraining} | {
            "parameters": 1_500_000,
            "seconds_per_image": 0.02,
        }

    metrics = {
        "02_autoencoder": {"training": {"seconds": 260.0}},
        "04_diffusion": {"training": {"seconds": 1600.0}},
        "05_panoptic_evaluation": {"variants": [scores(0.1), scores(0.4)]},
        STAGE: {
            "models": [model("MAE", 0.55, {"seconds": 61.0}), model("self-distilled", 0.5, None)],
            "ldmseg": {"num_inference_steps": 20, "parameters": 6_000_000, "seconds_per_image": 0.5},
        },
    }
    shared = {
        "profile": "demo",
        "seed": 0,
        "data": None,
        "device": "a processor",
        "weights": "trained by this notebook",
        "parameters": {
            "data": {"image_size": 64, "train_scenes": 40, "val_scenes": 8},
            **{name: {"training": {"steps": 8, "batch_size": 2}} for name in ("autoencoder", "diffusion")},
            "evaluation": {"num_inference_steps": 20},
        },
        "inputs": {},
        "key": "0" * 64,
    }
    return {stage: {**shared, "stage": stage, "metrics": metrics[stage]} for stage in STAGES}


def test_each_model_has_a_row_with_its_own_name_quality_and_cost():
    frame = mask2former(records()).set_index("model")
    names = ["Mask2Former, ViT, MAE features", "Mask2Former, ViT, self-distilled features", "LDMSeg, 20 steps"]
    assert list(frame.index[:3]) == names
    assert frame.loc[names[0], ["class-agn. PQ", "PQ", "PQ things", "mIoU"]].tolist() == pytest.approx([65, 55, 45, 75])
    assert frame.loc[names[2], ["class-agn. PQ", "PQ"]].tolist() == pytest.approx([50, 40]), "threshold and area"
    assert frame["training [s]"][:3].tolist() == [240, 240, 1860], "LDMSeg's is that of both its trainings"
    assert frame["pretraining [s]"].iloc[0] == 61 and frame["pretraining [s]"][1:].isna().all()
    assert frame["parameters [M]"][:3].tolist() == [1.5, 1.5, 6.0]
    assert frame["s / image"][:3].tolist() == [0.02, 0.02, 0.5]


def test_published_numbers_are_quoted_with_their_source_and_nothing_beside_them():
    frame = mask2former(records())
    quoted = frame[frame["model"].str.startswith("published, COCO")].set_index("model")
    values = {name.partition(": ")[2].partition(" (s")[0]: value for name, value in quoted["PQ"].items()}
    assert values == {
        "Mask2Former (R50)": 51.9,
        "Mask2Former (Swin-L)": 57.8,
        "LDMSeg, 50 steps (Table S2)": 44.3,
    }
    assert quoted[["parameters [M]", "training [s]", "s / image"]].isna().all(axis=None)
    assert len(frame) == 3 + len(published())
    table = supplement("table_s2").set_index("iters").loc[50]
    assert quoted["mIoU"].dropna().tolist() == [table["miou"]]


def test_findings_say_how_far_the_goal_and_the_paper_are():
    ours, theirs = mask2former_findings(records())
    assert "MAE features) has a panoptic PQ of 55.0 after 240 s of training, LDMSeg 40.0" in ours and "is 50" in ours
    assert "7.6 behind Mask2Former (R50)" in theirs and "13.5 behind Mask2Former (Swin-L)" in theirs


def test_the_table_needs_the_results_of_four_notebooks(tmp_path):
    everything = records()
    for stage in STAGES:
        with pytest.raises(InputError, match=stage):
            build_table("mask2former", {name: record for name, record in everything.items() if name != stage})
    write_table(TABLES["mask2former"], everything, tmp_path)
    text = (tmp_path / "mask2former.md").read_text()
    assert "| LDMSeg, 20 steps | 50.0 | 40.0 |" in text and "embedded scenes at 64 px" in text
