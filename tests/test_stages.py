"""Stages: what their keys depend on, what they find, wait for, put aside and record."""

import ast
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ldmseg_lib import paths, stage_keys, stages
from ldmseg_lib.errors import InputError, StageError
from ldmseg_lib.files import read_json, write_text
from ldmseg_lib.profiles import Profile
from ldmseg_lib.sources import notebook_sources, source_hashes
from ldmseg_lib.stage_keys import STAGES, Stage, ancestors, find_stage
from ldmseg_lib.stages import check_injected, open_stage, stage_key

TRAIN, EVALUATE, LAST = "04_diffusion", "05_panoptic_evaluation", "14_paper_and_ours"


def opened(name: str, run_dir: Path, **parameters):
    return open_stage(name, profile="demo", run_dir=run_dir, **parameters)


def finish(name: str, run_dir: Path, **parameters) -> None:
    for stage_name in [*ancestors(name), find_stage(name).name]:
        stage = opened(stage_name, run_dir, **parameters)
        stage.compute(lambda stage: {"made by": stage.name})
        stage.finish()


DEMO = Profile.load("demo")


def keys(overrides: str = "", **parameters) -> dict[str, str]:
    profile = Profile.load("demo", overrides)
    return {name: key.digest for name, key in stage_keys.stage_keys(profile, **parameters).items()}


def dependents(name: str) -> list[str]:
    return [other for other in STAGES if other == name or name in ancestors(other)]


def reading(section: str) -> list[str]:
    """The stages that read a section of the profile, and all that depend on them."""
    behind = {name for reader, stage in STAGES.items() if section in stage.sections for name in dependents(reader)}
    return [name for name in STAGES if name in behind]


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [name for name in before if before[name] != after[name]]


# the registry


def test_registry_names_real_modules_sections_and_earlier_stages() -> None:
    sections = {field.name for field in dataclasses.fields(Profile)}
    names = list(STAGES)
    assert names == sorted(names)
    for place, stage in enumerate(STAGES.values()):
        assert set(stage.inputs) <= set(names[:place])
        assert {section.partition(".")[0] for section in stage.sections} <= sections
        source_hashes(stage.modules)
    assert STAGES[LAST].inputs == tuple(n for n in names if n != LAST and not STAGES[n].optional)


def test_a_stage_is_found_by_its_number_and_a_wrong_name_gets_the_nearest() -> None:
    assert find_stage("05").name == EVALUATE
    with pytest.raises(StageError, match="did you mean '04_diffusion'"):
        find_stage("04_difusion")
    with pytest.raises(StageError, match="there are 01_dataset"):
        find_stage("")


# keys


def test_a_key_changes_with_its_own_parameters_and_those_of_its_inputs_alone() -> None:
    before = keys()
    assert changed(before, keys("evaluation.num_inference_steps=3")) == reading("evaluation")
    assert changed(before, keys("diffusion.training.steps=7")) == reading("diffusion")
    assert EVALUATE in reading("evaluation") and not {"01_dataset", "02_autoencoder", TRAIN} & {*reading("evaluation")}
    assert TRAIN not in dependents(EVALUATE) and LAST in dependents(EVALUATE)
    assert changed(before, keys("data.image_size=32")) == list(STAGES)
    assert changed(before, keys(seed=1)) == list(STAGES)
    assert keys() == before


def test_settings_without_effect_on_results_leave_keys_alone() -> None:
    for setting in ("data.workers=3", "diffusion.training.checkpoint_every=9", "autoencoder.training.log_every=1"):
        assert keys() == keys(setting)


def test_a_data_folder_counts_with_its_annotations(tmp_path: Path) -> None:
    (tmp_path / "panoptic_val.json").write_text("{}")
    embedded, given = keys(), keys(data_root=tmp_path)
    assert changed(embedded, given) == list(STAGES)
    assert keys(data_root=tmp_path) == given
    (tmp_path / "panoptic_val.json").write_text('{"images": []}')
    assert changed(given, keys(data_root=tmp_path)) == list(STAGES)
    with pytest.raises(StageError, match="no such folder"):
        keys(data_root=tmp_path / "nowhere")


def test_stage_key_is_that_of_the_table_of_keys() -> None:
    assert stage_key("04", Profile.load("demo")) == keys()[TRAIN]


def test_keys_cost_no_torch_and_little_time() -> None:
    code = (
        "import sys, time; from ldmseg_lib.stages import stage_keys; from ldmseg_lib.profiles import Profile\n"
        "profile = Profile.load('demo'); start = time.process_time(); stage_keys(profile)\n"
        "print(time.process_time() - start, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, torch_loaded = done.stdout.split()
    assert torch_loaded == "False"
    assert float(seconds) < 1.0  # of the processor; about 0.1


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "toy"
    files = {
        "__init__.py": "_PUBLIC = {'Lazy': 'deep.lazy'}",
        "start.py": "import os\nfrom .deep import late\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from . import typed\ndef f():\n    from toy import Lazy\n    import toy.plain\n",
        "typed.py": "",
        "plain.py": "from . import drawn",
        "drawn.py": "from . import onlydrawn",
        "onlydrawn.py": "",
        "unused.py": "",
        "deep/__init__.py": "",
        "deep/late.py": "try:\n    from ..helper import x\nexcept ImportError:\n    from . import spare\n",
        "deep/lazy.py": "",
        "deep/spare.py": "",
        "helper.py": "x = 1",
    }
    for name, text in files.items():
        write_text(folder / name, text)
    return folder


def test_source_walk_finds_late_lazy_and_relative_imports_but_not_types(package: Path) -> None:
    found = source_hashes(["start"], without=["drawn"], package=package)
    assert list(found) == ["deep.late", "deep.lazy", "deep.spare", "helper", "plain", "start"]
    assert "onlydrawn" in source_hashes(["start"], package=package)
    assert "drawn" in source_hashes(["drawn"], without=["drawn"], package=package)
    with pytest.raises(StageError, match=r"toy\.nothing: no such module"):
        source_hashes(["nothing"], package=package)


def test_source_walk_sees_an_edit_of_a_far_import(package: Path) -> None:
    before = source_hashes(["start"], package=package)
    os.utime(package / "helper.py", (1, 1))
    assert source_hashes(["start"], package=package) == before
    (package / "helper.py").write_text("x = 2")
    after = source_hashes(["start"], package=package)
    assert [name for name in before if before[name] != after[name]] == ["helper"]


@pytest.mark.parametrize("module", ["data.synthetic", "evaluation.panoptic_quality", "training.diffusion"])
def test_source_walk_misses_nothing_that_python_imports(module: str) -> None:
    code = f"import sys, ldmseg_lib.{module}; print(*[m for m in sys.modules if m.startswith('ldmseg_lib.')])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    names = {name.removeprefix("ldmseg_lib.") for name in loaded}
    packages = {name for name in names if (paths.PACKAGE / name.replace(".", "/")).is_dir()}
    assert names - packages <= set(source_hashes([module]))


def write_notebook(file: Path, *sources: str) -> Path:
    cells = [{"cell_type": "code" if "=" in s or "import" in s else "markdown", "source": s} for s in sources]
    write_text(file, json.dumps({"cells": cells}))
    return file


def test_a_notebook_counts_by_what_it_computes_and_imports_and_not_by_its_prose(package: Path, tmp_path: Path) -> None:
    def found(*sources: str) -> dict[str, str]:
        file = write_notebook(tmp_path / "01_toy.ipynb", *sources)
        os.utime(file, ns=(len(versions), len(versions)))
        versions.append(notebook_sources(file, without=["drawn"], package=package))
        return versions[-1]

    versions: list[dict[str, str]] = []
    work = "def work(stage):\n    return {'a': 1}\nmetrics = stage.compute(work)"
    first = found("# Title", "%matplotlib inline\nfrom toy import helper, drawn", work)
    assert list(first) == ["notebooks/01_toy.ipynb", "helper"]
    assert found("# Another title", "from toy import helper", work, "figure = 1") == first
    assert found("# Title", "from toy import helper", work.replace("1", "2")).keys() == first.keys()
    assert versions[-1] != first
    (tmp_path / "01_toy.ipynb").write_text("[]")
    with pytest.raises(StageError, match=r"01_toy\.ipynb: not a notebook"):
        notebook_sources(tmp_path / "01_toy.ipynb", package=package)


def settings_read(notebook: Path) -> set[str]:
    """Settings ("evaluation.min_area", or "data" for a whole section) that the computing cells of a notebook read."""
    sections = {field.name for field in dataclasses.fields(Profile) if field.name != "name"}
    read: set[str] = set()
    for cell in read_json(notebook)["cells"]:
        if cell["cell_type"] != "code" or ".compute(" not in "".join(cell["source"]):
            continue
        nodes = list(ast.walk(ast.parse("".join(cell["source"]))))
        names, named = {}, set()  # settings = stage.profile.evaluation, also a, b = …, …
        for node in (n for n in nodes if isinstance(n, ast.Assign)):
            target, value = node.targets[0], node.value
            both = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
            pairs = zip(target.elts, value.elts) if both else [(target, value)]
            for name, part in pairs:
                if isinstance(name, ast.Name) and isinstance(part, ast.Attribute) and part.attr in sections:
                    names[name.id] = part.attr
                    named.add(part)
        for node in (n for n in nodes if isinstance(n, ast.Attribute)):
            if isinstance(node.value, ast.Attribute) and node.value.attr in sections:
                read.add(f"{node.value.attr}.{node.attr}")
                named.add(node.value)
            elif isinstance(node.value, ast.Name) and node.value.id in names:
                read.add(f"{names[node.value.id]}.{node.attr}")
        read |= {n.attr for n in nodes if isinstance(n, ast.Attribute) and n.attr in sections and n not in named}
    return read - {"evaluation.batch_size"}  # results differ by rounding alone


@pytest.mark.parametrize("name", [name for name in STAGES if (paths.NOTEBOOKS / f"{name}.ipynb").exists()])
def test_a_computation_reads_only_settings_that_are_in_its_key(name: str) -> None:
    in_key = {section for stage in (name, *ancestors(name)) for section in STAGES[stage].sections}
    for setting in settings_read(paths.NOTEBOOKS / f"{name}.ipynb"):
        assert setting in in_key or setting.partition(".")[0] in in_key, (
            f"{name} reads {setting}; add it to its sections"
        )


def test_every_numbered_notebook_is_registered() -> None:
    assert {file.stem for file in paths.NOTEBOOKS.glob("[0-9]*.ipynb")} <= set(STAGES)


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
    assert record["key"] == stage.key and record["sources"]["data.synthetic"]
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
    assert stages.chosen_stages(f"01,{LAST}") == ["01_dataset", LAST]


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
    assert stages.main(["keys", "--run-dir", str(tmp_path)]) == 0
    assert written.stat().st_mtime_ns == date and done.stat().st_mtime_ns >= date
    assert not stage_keys.done_file(tmp_path, TRAIN).exists()

    assert stages.main(["keys", "--run-dir", str(tmp_path), "--overrides", "autoencoder.num_points=7"]) == 0
    assert written.stat().st_mtime_ns > date and not done.exists()
    assert stage_keys.done_file(tmp_path, "01_dataset").exists()

    assert stages.main(["keys", "--run-dir", str(tmp_path)]) == 0
    assert done.exists() and done.stat().st_mtime_ns >= written.stat().st_mtime_ns


def test_plan_says_what_runs_and_why(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def planned(*options: str) -> dict[str, str]:
        assert stages.main(["plan", "--run-dir", str(tmp_path), *options]) == 0
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
    assert "ldmseg_lib/data/synthetic.py changed" in text and "notebooks/01_dataset.ipynb changed" in text


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
    assert stages.main(["plan", "--profile", "dmo"]) == 2
    assert stages.main(["keys", "--run-dir", str(tmp_path), "--overrides", "nothing"]) == 2
    assert stages.main(["plan", "--run-dir", str(tmp_path), "--notebooks", "99"]) == 2
    opened("01", tmp_path)
    assert stages.main(["plan", "--run-dir", str(tmp_path), "--seed", "3"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and "did you mean 'demo'" in lines[0]


# two processes

HOLDER = """
import sys, time
from ldmseg_lib.stages import open_stage
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
    with start_holder(tmp_path, 1.0):
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
    opened("01", tmp_path).finish({})
