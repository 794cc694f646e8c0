"""Table S2 and what belongs to it: columns and numbers of the paper beside ours, sentences computed from both."""

from typing import Any

import pytest

from ldmseg_lib.experiments.denoising_steps import tables as step_tables
from ldmseg_lib.experiments.denoising_steps.plots import sampler_frontier, steps_curves, time_lines, trajectory_curves
from ldmseg_lib.experiments.supplement import supplement
from ldmseg_lib.reproduction.results import build_table, write_tables
from tests.experiments.figure_checks import problems

STAGE = step_tables.STAGE
COUNTS = supplement("table_s2")["iters"].tolist()


def row(sampler: str, steps: int, images: int, pq: float) -> dict[str, Any]:
    quality = {"pq": pq, "sq": 0.8, "rq": pq / 0.8, "n": 3}
    groups = {"All": quality, "Things": {**quality, "pq": pq / 2}, "Stuff": {**quality, "pq": pq}}
    agnostic = {"All": {**quality, "pq": pq + 0.1}}
    return {
        "sampler": sampler,
        "steps": steps,
        "images": images,
        "class_agnostic": agnostic,
        "panoptic": groups,
        "miou": pq,
    }


def timing(sampler: str, counts: list[int]) -> dict[str, Any]:
    rows = [
        {
            "steps": n, "encode": 0.01, "denoise": 0.02 * n, "decode": 0.005, "postprocess": 0.003,
            "total": 0.018 + 0.02 * n, "least": 0.017 + 0.02 * n, "most": 0.03 + 0.02 * n,
        }
        for n in counts
    ]  # fmt: skip
    return {
        "device": "a processor", "precision": "fp32", "batch": 1, "image_size": 64, "sampler": sampler,
        "tasks": ["instance", "semantic"], "repeats": 3, "rows": rows, "fit": {"fixed": 0.018, "per_step": 0.02},
    }  # fmt: skip


def trajectory(count: int = 50) -> dict[str, Any]:
    names = ("grouped", "changed", "wrong", "kept", "lasting", "spoiled", "found_small", "found_large")
    steps = [{"step": n + 1, **{name: (n + i) / 100 for i, name in enumerate(names)}} for n in range(count)]
    steps[0] |= {"changed": None, "kept": None}
    return {"images": 4, "segments": 20, "small_area": 30.0, "steps": steps}


def records(quality=lambda steps: 0.4, profile: str = "demo") -> dict[str, Any]:
    """A result of notebook 06 whose PQ at a number of steps is `quality`."""
    frontier = [row(name, n, 48, quality(n)) for name in ("ddim", "ddpm") for n in (1, 5)]
    metrics = {
        "sampler": "ddim",
        "images": {"table": 24, "frontier": 48},
        "shown": [1, 5, 10, 20, 50],
        "rows": [row("ddim", n, 24, quality(n)) for n in COUNTS] + frontier,
        "timing": {"ddim": timing("ddim", COUNTS), "ddpm": timing("ddpm", [1, 5])},
        "trajectory": trajectory(),
        "notes": [],
    }
    training = {"steps": 8, "batch_size": 2}
    parameters = {
        "data": {"image_size": 64, "train_scenes": 40, "val_scenes": 8},
        "autoencoder": {"training": training},
        "diffusion": {"training": training},
    }
    common = {
        "profile": profile,
        "seed": 0,
        "device": "a processor",
        "parameters": parameters,
        "inputs": {},
        "data": None,
    }
    return {
        "04_diffusion": {**common, "key": "4" * 64, "metrics": {}, "weights": "trained by this notebook"},
        STAGE: {
            **common,
            "key": "6" * 64,
            "metrics": metrics,
            "weights": "notebook 04 of this run, averaged",
            "inputs": {"04_diffusion": "4" * 64},
        },
    }


def test_table_s2_has_the_papers_columns_and_its_numbers_at_the_same_steps() -> None:
    table = build_table("table_s2", records())
    assert table.columns.tolist() == [
        "# iters", "class-agn. PQ", "class-agn. SQ", "class-agn. RQ", "mIoU", "PQ", "SQ", "RQ", "PQ things", "PQ stuff",
        "time [s]", "paper class-agn. PQ", "paper mIoU", "paper PQ", "paper time [s]",
    ]  # fmt: skip
    paper = supplement("table_s2")
    assert table["# iters"].tolist() == COUNTS
    assert table["paper PQ"].tolist() == paper["pq"].tolist()
    assert table["paper class-agn. PQ"].tolist() == paper["class_agnostic_pq"].tolist()
    assert table["paper time [s]"].tolist() == paper["seconds"].tolist()
    assert table["class-agn. PQ"].tolist() == pytest.approx([50.0] * 18)
    assert table["PQ things"].tolist() == pytest.approx([20.0] * 18)
    assert table["time [s]"].tolist() == pytest.approx([0.018 + 0.02 * n for n in COUNTS])


def test_the_table_takes_the_rows_of_its_own_images_and_sampler() -> None:
    known = records()
    known[STAGE]["metrics"]["rows"].insert(0, row("ddim", 1, 48, 0.9))
    known[STAGE]["metrics"]["rows"].insert(0, row("ddpm", 1, 24, 0.9))
    assert build_table("table_s2", known)["PQ"].tolist() == pytest.approx([40.0] * 18)
    assert len(build_table("sampler_frontier", records())) == 4


def test_a_step_count_that_the_paper_lacks_has_no_number_of_its() -> None:
    known = records()
    known[STAGE]["metrics"]["rows"].append(row("ddim", 7, 24, 0.4))
    table = build_table("table_s2", known).set_index("# iters")
    assert table["paper PQ"].isna()[7] and not table["paper PQ"].isna()[10]


def test_findings_follow_the_results() -> None:
    paper = supplement("table_s2").set_index("iters")["pq"]
    pairs = sum(paper[a] != paper[b] for i, a in enumerate(COUNTS) for b in COUNTS[i + 1 :])
    alike = step_tables.table_s2_findings(records(lambda n: paper[n] / 100))[0]
    # class-agnostic PQ is 10 points more than PQ here, and its order in the paper is another one
    assert f"By PQ the order of the rows agrees: {pairs} of {pairs} pairs" in alike
    assert "95 % of the best PQ needs 10 steps in the paper's table and 10 in this one" in alike
    reverse = step_tables.table_s2_findings(records(lambda n: 1 / n))[0]
    assert "By PQ the order of the rows does not agree everywhere" in reverse
    assert "95 % of the best PQ needs 10 steps in the paper's table and 1 in this one" in reverse
    assert "10 to 50 steps are needed" in reverse


def test_times_say_device_precision_batch_and_both_lines() -> None:
    text = step_tables.time_fits(records()[STAGE]["metrics"])
    for part in ("0.068 s + 0.0498 s x steps", "ddim 0.0180 s + 0.0200 s x steps", "a processor, fp32, batch 1, 64 px"):
        assert part in text
    table = build_table("inference_time", records())
    assert table["paper"].tolist() == supplement("table_s2")["seconds"].tolist()
    parts = table[["encode", "denoise", "decode", "postprocess"]].sum(axis=1)
    assert parts.tolist() == pytest.approx(table["total"].tolist())
    assert "24 ms for its own" in step_tables.inference_time_findings(records())[1]


def test_the_frontier_names_the_best_sampler_at_each_count() -> None:
    known = records()
    for line in known[STAGE]["metrics"]["rows"]:
        if line["sampler"] == "ddpm" and line["steps"] == 5:
            line["panoptic"]["All"] = {**line["panoptic"]["All"], "pq": 0.45}
    text = step_tables.sampler_frontier_findings(known)[0]
    assert "ddpm at 5 (45.0)" in text and "here it is +5.0 at 5: the same order" in text
    assert "gains 0.6 PQ with DDPM over DDIM" in text


def test_the_trajectory_is_shown_at_the_steps_of_figure_s5() -> None:
    table = build_table("denoising_trajectory", records())
    assert table["step"].tolist() == [1, 5, 10, 20, 50]
    assert table["merged segments"].tolist() == pytest.approx([0, 4, 9, 19, 49])
    text = " ".join(step_tables.denoising_trajectory_findings(records()))
    assert "49.0 % cover two or more at the end (0.0 % after the first step)" in text
    assert "under 30 pixels 6.0 % were found after the first step and 55.0 % at the end" in text


def test_smoke_says_that_it_shows_nothing(tmp_path) -> None:
    write_tables(records(profile="smoke"), tmp_path)
    for name in ("table_s2", "sampler_frontier"):
        text = (tmp_path / f"{name}.md").read_text()
        assert "these numbers mean nothing" in text and "every step works, and nothing else" in text


def test_undefined_values_leave_tables_and_figures_whole(tmp_path) -> None:
    known = records()
    for line in known[STAGE]["metrics"]["rows"]:
        line["panoptic"] = {name: dict.fromkeys(("pq", "sq", "rq")) for name in ("All", "Things", "Stuff")}
    for step in known[STAGE]["metrics"]["trajectory"]["steps"]:
        step |= {"grouped": None, "lasting": None}
    assert {"table_s2", "sampler_frontier"} <= {file.stem for file in write_tables(known, tmp_path)}
    assert not problems(steps_curves(build_table("table_s2", known)))


def test_figures_show_what_the_tables_hold() -> None:
    known = records(lambda n: 0.1 + n / 1000)
    figure = steps_curves(build_table("table_s2", known))
    assert not problems(figure)
    curves = figure.axes[2].lines
    assert curves[0].get_ydata().tolist() == pytest.approx([10 + n / 10 for n in COUNTS])
    assert curves[1].get_ydata().tolist() == supplement("table_s2")["pq"].tolist()
    frontier = sampler_frontier(build_table("sampler_frontier", known)).axes[1]
    assert not problems(frontier.figure)
    assert [line.get_label() for line in frontier.lines] == ["DDIM", "DDPM"]
    assert frontier.lines[0].get_xdata().tolist() == pytest.approx([0.038, 0.118])
    assert [text.get_text() for text in frontier.texts] == ["1", "5"]
    panels = trajectory_curves(known[STAGE]["metrics"]["trajectory"]["steps"]).axes
    assert [len(line.get_xdata()) for line in panels[1].lines] == [50, 49]
    assert not problems(panels[0].figure)
    times = time_lines(build_table("inference_time", known))
    assert len(times.axes[1].lines) == 2 and not problems(times)
