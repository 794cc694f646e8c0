"""The command `python -m ldmseg_lib.evaluation`: its numbers and options."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from ldmseg_lib.evaluation.__main__ import main
from tests.evaluation.coco_folders import FAULTY, groups, write_ids


@pytest.mark.parametrize("workers", [1, 2])
def test_reports_what_the_metric_counts_on_one_core_or_two(files, capsys, workers):
    assert files.run("--workers", str(workers), "--per-class", "--by-size") == 0
    report, expected = files.report(), files.expected(range(5))
    assert groups(report) == groups(expected)
    assert report["per_class"]["1"] == expected["per_class"][1]
    assert (report["partial"], report["images"], report["images_total"]) == (False, 5, 5)
    out, err = capsys.readouterr()
    lines = dict(line.split("|") for line in out.splitlines() if "|" in line)
    for name, numbers in groups(expected).items():
        percent = [f"{100 * numbers[key]:.1f}" for key in ("pq", "sq", "rq")]
        assert lines[f"{name:<10}"].split() == [*percent, str(numbers["n"])]
    assert "grass" in out and "1024-9215" in out and err == ""


def test_class_agnostic_and_corrected_crowd_are_passed_on(files):
    files.run("--class-agnostic", "--crowd", "corrected")
    assert files.report()["All"] == files.expected(range(5), class_agnostic=True, crowd="corrected")["All"]


def test_an_empty_group_says_none(files, capsys):
    for document in (files.truth, files.predictions):
        for annotation in document["annotations"]:
            for segment in annotation["segments_info"]:
                segment["category_id"] = 1
    files.write()
    assert files.run() == 0
    stuff = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Stuff"))
    assert stuff.split()[-4:] == ["none", "none", "none", "0"]
    assert files.report()["Stuff"] == {"pq": None, "sq": None, "rq": None, "n": 0}


def test_the_folders_can_lie_anywhere(files, tmp_path):
    (tmp_path / "truth").rename(tmp_path / "a")
    (tmp_path / "predictions").rename(tmp_path / "b")
    assert files.run("--gt-folder", str(tmp_path / "a"), "--pred-folder", str(tmp_path / "b")) == 0


def test_areas_are_measured_and_sizes_may_be_absent(files):
    """The JSON's areas are all wrong here; the ground truth need not list images at all, as panopticapi's need not."""
    del files.truth["images"]
    files.write()
    assert files.run() == 0
    assert groups(files.report()) == groups(files.expected(range(5)))


def test_a_declared_subset_by_file_or_by_what_is_predicted(files, tmp_path):
    del files.predictions["annotations"][2]
    files.write()
    (tmp_path / "names.txt").write_text("000000000004.png\n100\n\n000000000001\n")
    assert files.run("--subset", str(tmp_path / "names.txt")) == 0
    assert groups(files.report()) == groups(files.expected([0, 1, 4]))
    assert files.run("--subset", "predicted") == 0
    assert groups(files.report()) == groups(files.expected([0, 1, 3, 4]))
    assert files.report()["subset"] == "predicted"


def test_background_is_scored_where_the_folder_says_so(files, capsys):
    """0 as background: a copy of the ground truth is perfect, and a prediction of nothing misses the background."""
    files.truth["info"] = {"unlabelled": "background"}
    files.write()
    copied = json.loads(json.dumps(files.truth))
    (files.root / "copy.json").write_text(json.dumps(copied))
    options = ["--predictions", str(files.root / "copy.json"), "--pred-folder", str(files.root / "truth")]
    assert files.run(*options) == 0
    assert groups(files.report())["Stuff"] == {"pq": 1, "sq": 1, "rq": 1, "n": 2}
    assert "0 is background" in capsys.readouterr().out
    # one prediction that lists its background: zeros elsewhere are then no segment
    ids = np.where(files.maps[0][0] == 0, 5, files.maps[0][0])
    write_ids(files.root / "truth" / "listed.png", ids)
    copied["annotations"][0]["file_name"] = "listed.png"
    copied["annotations"][0]["segments_info"].append({"id": 5, "category_id": 3})
    (files.root / "copy.json").write_text(json.dumps(copied))
    assert files.run(*options) == 0
    background = files.report()["per_class"]["3"]
    assert (background["tp"], background["fp"], background["fn"]) == (1, 0, 4)
    assert files.run(*options, "--unlabelled", "void", "--subset", "predicted") == 2


def test_things_only_says_that_void_flatters(files, capsys):
    files.truth["categories"] = [{"id": i, "name": "thing", "isthing": 1} for i in (1, 2)]
    files.write()
    assert files.run() == 0
    assert "flatters" in capsys.readouterr().out


def test_surplus_predictions_are_ignored_and_said(files, capsys):
    del files.truth["annotations"][1]
    files.write()
    assert files.run() == 0
    assert "1 predictions are of images that the ground truth lacks" in capsys.readouterr().out
    assert groups(files.report()) == groups(files.expected([0, 2, 3, 4]))


def test_starts_without_torch_and_exits_with_two(files):
    """The command and the metric import neither torch nor diffusers, which take seconds."""
    code = (
        "import sys, runpy\n"
        "sys.argv = ['evaluation', *sys.argv[1:]]\n"
        "try:\n"
        "    runpy.run_module('ldmseg_lib.evaluation', run_name='__main__')\n"
        "finally:\n"
        "    assert not {'torch', 'diffusers'} & sys.modules.keys()\n"
    )
    paths = ["--ground-truth", str(files.root / "truth.json"), "--predictions", str(files.root / "predictions.json")]
    good = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=60)
    assert good.returncode == 0 and "All" in good.stdout and good.stderr == ""
    files.png(FAULTY).unlink()
    bad = subprocess.run(
        [sys.executable, "-m", "ldmseg_lib.evaluation", *paths], capture_output=True, text=True, timeout=60
    )
    assert bad.returncode == 2 and bad.stderr.count("\n") == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_under_the_printed_table_is_one_line_and_the_json_is_written(files):
    paths = ["--ground-truth", str(files.root / "truth.json"), "--predictions", str(files.root / "predictions.json")]
    command = [sys.executable, "-m", "ldmseg_lib.evaluation", *paths, "--json", str(files.root / "out.json")]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "standard output: cannot be written (No space left on device)" in done.stderr
    assert not json.loads((files.root / "out.json").read_text())["partial"]


def test_real_folders_evaluated_against_themselves_are_perfect(shared_data, capsys, tmp_path):
    """Real annotations, crowd regions among them: read, paired and counted without a fault."""
    for name in ("nuclei", "coco_permissive"):
        annotations = str(shared_data / name / "panoptic_val.json")
        out = tmp_path / f"{name}.json"
        assert main(["--ground-truth", annotations, "--predictions", annotations, "--json", str(out)]) == 0
        report = json.loads(out.read_text())
        assert report["All"]["pq"] == 1 and report["images"] == report["images_total"] > 60
