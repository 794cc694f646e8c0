"""Stages: what they find, wait for, put aside and record."""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ldmseg_lib.core import paths
from ldmseg_lib.core.errors import InputError, StageError
from ldmseg_lib.core.files import read_json, write_text
from ldmseg_lib.core.profiles import Profile
from ldmseg_lib.reproduction import stage_keys, stages
from ldmseg_lib.reproduction.__main__ import main
from ldmseg_lib.reproduction.stage_keys import STAGES, Stage, ancestors, find_stage
from ldmseg_lib.reproduction.stages import check_injected, open_stage

TRAIN, EVALUATE, LAST = "04_diffusion", "05_panoptic_evaluation", "14_paper_and_ours"


def opened(name: str, run_dir: Path, **parameters):
    return open_stage(name, profile="demo", run_dir=run_dir, **parameters)


def finish(name: str, run_dir: Path, **parameters) -> None:
    for stage_name in [*ancestors(name), find_stage(name).name]:
        stage = opened(stage_name, run_dir, **parameters)
        stage.compute(lambda stage: {"made by": stage.name})
        stage.finish()


DEMO = Profile.load("demo")

# parameters


def test_an_injected_name_that_no_notebook_has_is_an_error_with_the_nearest() -> None:
    check_injected(['profile = "demo"\nsed = 3', '# Parameters\nprofile = "smoke"\nseed = 3\noverrides = {"a.b": 1}\n'])
    with pytest.raises(StageError, match="'sed'; did you mean 'seed'"):
        check_injected(["", '# Parameters\nprofile = "smoke"\nsed = 3\n'])
    with pytest.raises(StageError, match="go into overrides"):
        check_injected(["# Parameters\nnum_inference_steps = 3\n"])


def test_bad_parameters_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="seed must be a whole number"):
        opened("01", tmp_path, seed="0")
    with pytest.raises(InputError, match="evaluation"):
        opened("01", tmp_path, overrides="evaluaton.min_area=3")
    with pytest.raises(StageError, match="no such folder"):
        opened("01", tmp_path, data_root=tmp_path / "nowhere")


def test_empty_text_counts_as_not_given(tmp_path: Path) -> None:
    stage = open_stage("01", profile="demo", run_dir=tmp_path, data_root="", overrides="")
    assert stage.data_root == tmp_path / "01_dataset" / "data" and not stage.data_given


def test_overrides_as_mapping_and_as_text_are_the_same_run(tmp_path: Path) -> None:
    one = opened("01", tmp_path, overrides={"data.num_ids": 8, "evaluation.min_area": 0})
    assert one.key == opened("01", tmp_path, overrides="data.num_ids=8,evaluation.min_area=0").key


# the run folder


def test_a_run_folder_of_another_profile_or_seed_is_refused(tmp_path: Path) -> None:
    opened("01", tmp_path)
    with pytest.raises(StageError, match=r"made by profile demo with seed 0, not by profile demo with seed 1"):
        opened("01", tmp_path, seed=1)
    (tmp_path / "other.yaml").write_text((paths.PROFILES / "demo.yaml").read_text())
    with pytest.raises(StageError, match=r"made by profile demo .* not by profile other"):
        open_stage("01", profile=tmp_path / "other.yaml", run_dir=tmp_path)
    (tmp_path / "run.json").write_text('{"profile": "de')
    with pytest.raises(StageError, match=r"run\.json: not JSON"):
        opened("01", tmp_path)


def test_a_missing_input_names_the_notebook_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"needs the mask autoencoder.*run notebooks/02_autoencoder\.ipynb"):
        finish("01", tmp_path)
        opened(TRAIN, tmp_path)


def test_a_stale_input_is_refused_with_the_cause(tmp_path: Path) -> None:
    finish(TRAIN, tmp_path)
    was = DEMO.autoencoder.num_points
    with pytest.raises(StageError, match=rf"stale .*autoencoder\.num_points {was} -> 7.*run notebooks/02_autoencoder"):
        opened(TRAIN, tmp_path, overrides="autoencoder.num_points=7")


def test_inputs_are_the_folders_of_earlier_stages_near_and_far(tmp_path: Path) -> None:
    finish(TRAIN, tmp_path)
    stage = opened(EVALUATE, tmp_path)
    assert stage.input("04") == tmp_path / TRAIN and stage.input("01_dataset") == tmp_path / "01_dataset"
    with pytest.raises(StageError, match="not registered as an input"):
        stage.input(LAST)


# computing


def test_a_finished_stage_is_loaded_and_not_computed_again(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first = opened("01", tmp_path)
    metrics = first.compute(lambda stage, size: {"size": size, "pair": (1, 2)}, 5)
    first.finish()
    file = first.folder / "result.json"
    record, date = file.read_bytes(), file.stat().st_mtime_ns
    second = opened("01", tmp_path)
    assert second.compute(pytest.fail) == metrics == {"size": 5, "pair": [1, 2]}
    second.finish()
    assert "loaded the result of" in capsys.readouterr().out
    assert file.read_bytes() == record and file.stat().st_mtime_ns == date


def test_a_result_says_all_about_itself(tmp_path: Path) -> None:
    stage = opened("01", tmp_path, overrides="data.train_scenes=3")
    metrics = {"pq": np.float32(0.5), "n": np.int64(3), "none": float("nan"), "list": np.arange(2), "weights": "own"}
    stage.compute(lambda stage: metrics)
    stage.finish()
    record = read_json(stage.folder / "result.json")
    assert record["metrics"] == {"pq": 0.5, "n": 3, "none": None, "list": [0, 1], "weights": "own"}
    assert record["weights"] == "own" and record["seed"] == 0 and record["profile"] == "demo"
    assert record["parameters"] == json.loads(json.dumps(dataclasses.asdict(stage.profile)))
    assert record["key"] == stage.key and record["sources"]["data.scenes.dataset"]
    assert record["sources"]["notebooks/01_dataset.ipynb"]
    assert {"torch", "diffusers", "numpy", "python"} <= record["versions"].keys()
    assert record["device"] and record["seconds"] >= 0 and record["peak_memory_mib"] > 10
    assert record["date"].endswith("+00:00")


def test_a_figure_that_fails_after_the_computation_costs_no_computation(tmp_path: Path) -> None:
    opened("01", tmp_path).compute(lambda stage: {"scenes": 4})
    again = opened("01", tmp_path)
    assert again.result is None and again.compute(pytest.fail) == {"scenes": 4}
    again.finish()
    assert opened("01", tmp_path).result["metrics"] == {"scenes": 4}


def test_the_last_notebook_takes_what_is_finished_and_asks_for_nothing(tmp_path: Path) -> None:
    finish("01", tmp_path)
    stage = opened(LAST, tmp_path)
    stage.finish({"stages": ["01_dataset"]})
    assert stage_keys.chosen_stages(f"01,{LAST}") == ["01_dataset", LAST]


def test_a_stage_without_a_result_cannot_be_finished(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="call compute"):
        opened("01", tmp_path).finish()
    stage = opened("01", tmp_path)
    stage.finish({"scenes": 4}, weights="none")
    assert read_json(stage.folder / "result.json")["metrics"] == {"scenes": 4}


def test_a_failing_computation_keeps_its_files_for_the_next_try(tmp_path: Path) -> None:
    def fail(stage: stages.StageRun) -> dict:
        (stage.folder / "checkpoint").write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        opened("01", tmp_path).compute(fail)
    again = opened("01", tmp_path)
    assert again.result is None and (again.folder / "checkpoint").read_text() == "half"


def test_nothing_computed_is_lost_when_settings_change_and_come_back(tmp_path: Path) -> None:
    def work(stage: stages.StageRun) -> dict:
        (stage.folder / "weights").write_text(stage.key)
        return {"steps": stage.profile.data.train_scenes}

    first = opened("01", tmp_path)
    first.compute(work)
    first.finish()
    other = opened("01", tmp_path, overrides="data.train_scenes=9")
    assert not (other.folder / "weights").exists()
    (other.folder / "half").write_text("other's")  # interrupted here

    back = opened("01", tmp_path)
    assert back.compute(pytest.fail) == {"steps": DEMO.data.train_scenes}
    assert (back.folder / "weights").read_text() == back.key and not (back.folder / "half").exists()
    again = opened("01", tmp_path, overrides="data.train_scenes=9")
    assert (again.folder / "half").read_text() == "other's" and again.result is None


# what Snakemake reads


def test_key_files_change_date_with_content_alone_and_done_files_say_finished(tmp_path: Path) -> None:
    finish("02", tmp_path)
    written, done = (stage_keys.key_file(tmp_path, "02_autoencoder"), stage_keys.done_file(tmp_path, "02_autoencoder"))
    date = written.stat().st_mtime_ns
    assert main(["keys", "--run-dir", str(tmp_path)]) == 0
    assert written.stat().st_mtime_ns == date and done.stat().st_mtime_ns >= date
    assert not stage_keys.done_file(tmp_path, TRAIN).exists()

    assert main(["keys", "--run-dir", str(tmp_path), "--overrides", "autoencoder.num_points=7"]) == 0
    assert written.stat().st_mtime_ns > date and not done.exists()
    assert stage_keys.done_file(tmp_path, "01_dataset").exists()

    assert main(["keys", "--run-dir", str(tmp_path)]) == 0
    assert done.exists() and done.stat().st_mtime_ns >= written.stat().st_mtime_ns


def test_plan_says_what_runs_and_why(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def planned(*options: str) -> dict[str, str]:
        assert main(["plan", "--run-dir", str(tmp_path), *options]) == 0
        return {line.split()[0]: " ".join(line.split()[1:]) for line in capsys.readouterr().out.splitlines()}

    assert set(planned().values()) == {"runs for the first time"}
    finish("02", tmp_path)
    opened(TRAIN, tmp_path)
    capsys.readouterr()
    now = planned()
    assert now["02_autoencoder"].startswith("is finished") and now[TRAIN] == "goes on where it stopped"
    other = planned("--overrides", "autoencoder.num_points=7")
    assert other["02_autoencoder"] == f"runs again: autoencoder.num_points {DEMO.autoencoder.num_points} -> 7"
    finish("02", tmp_path, overrides="autoencoder.num_points=7")
    capsys.readouterr()
    assert "put aside" in planned()["02_autoencoder"]


def test_plan_names_a_changed_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish("01", tmp_path)
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path / "none")
    text = dict(stages.plan(tmp_path, stage_keys.stage_keys(DEMO)))["01_dataset"]
    assert "ldmseg_lib/data/scenes/dataset.py changed" in text and "notebooks/01_dataset.ipynb changed" in text


def test_a_reproduction_takes_all_but_the_optional_and_what_is_asked_for_brings_its_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*list(STAGES)[:3], "98_extra"):
        write_text(tmp_path / f"{name}.ipynb", "")
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path)
    monkeypatch.setitem(
        STAGES, "98_extra", Stage(name="98_extra", makes="more", inputs=("02_autoencoder",), optional=True)
    )
    assert stage_keys.chosen_stages() == list(STAGES)[:3]
    assert stage_keys.chosen_stages("98") == ["01_dataset", "02_autoencoder", "98_extra"]
    assert stage_keys.chosen_stages(" 02 , 01") == ["01_dataset", "02_autoencoder"]
    with pytest.raises(StageError, match="no notebook '77'"):
        stage_keys.chosen_stages("02,77")


def test_the_command_answers_bad_input_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["plan", "--profile", "dmo"]) == 2
    assert main(["keys", "--run-dir", str(tmp_path), "--overrides", "nothing"]) == 2
    assert main(["plan", "--run-dir", str(tmp_path), "--notebooks", "99"]) == 2
    opened("01", tmp_path)
    assert main(["plan", "--run-dir", str(tmp_path), "--seed", "3"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and "did you mean 'demo'" in lines[0]


# two processes

HOLDER = """
import sys, time
from ldmseg_lib.reproduction.stages import open_stage
stage = open_stage("01", profile="demo", run_dir=sys.argv[1])
print("open", flush=True)
time.sleep(float(sys.argv[2]))
stage.compute(lambda stage: {"by": "holder"})
stage.finish()
"""


def start_holder(run_dir: Path, seconds: float) -> subprocess.Popen:
    command = [sys.executable, "-c", HOLDER, str(run_dir), str(seconds)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "open\n"
    return holder


def test_a_second_process_waits_says_so_and_takes_the_first_ones_result(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with start_holder(tmp_path, 3.0):
        stage = opened("01", tmp_path)
        assert stage.compute(pytest.fail) == {"by": "holder"}
    assert "at work in" in capsys.readouterr().out


def test_a_killed_process_leaves_no_lock(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with start_holder(tmp_path, 60) as holder:
        holder.kill()
        holder.wait()
        start = time.monotonic()
        assert opened("01", tmp_path).result is None
        assert time.monotonic() - start < 10
    assert capsys.readouterr().out == ""


def test_a_cell_can_be_run_twice_in_one_process(tmp_path: Path) -> None:
    opened("01", tmp_path)
    opened("01", tmp_path).finish({"images": 3})
    assert opened("01", tmp_path).result["metrics"] == {"images": 3}
