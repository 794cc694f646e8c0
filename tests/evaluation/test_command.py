"""The command `python -m ldmseg_lib.evaluation`: its numbers, its options, and every fault in one line."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from ldmseg_lib.evaluation.__main__ import main
from ldmseg_lib.evaluation.panoptic_quality import PanopticQuality

CATEGORIES = [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "grass", "isthing": 0}]
FAULTY = 3
"""The place of the image that tests break; there are five."""


def write_ids(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.stack([ids >> 16 & 255, ids >> 8 & 255, ids & 255], axis=-1).astype(np.uint8))


@dataclass
class Files:
    """A ground truth and its predictions on disk, five images of 24 x 16."""

    root: Path
    truth: dict
    predictions: dict
    maps: list[tuple[np.ndarray, list, np.ndarray, list]]

    def png(self, place: int, side: str = "predictions") -> Path:
        return self.root / side / f"{place:012d}.png"

    def write(self) -> None:
        for side, document in (("truth", self.truth), ("predictions", self.predictions)):
            (self.root / f"{side}.json").write_text(json.dumps(document))

    def run(self, *options: str) -> int:
        paths = {"ground-truth": "truth.json", "predictions": "predictions.json", "json": "out.json"}
        return main([*(f"--{name}={self.root / path}" for name, path in paths.items()), *options])

    def report(self) -> dict:
        return json.loads((self.root / "out.json").read_text())

    def expected(self, places, **rules) -> dict:
        metric = PanopticQuality(CATEGORIES, **rules)
        for place in places:
            metric.update(*self.maps[place])
        return metric.compute()


@pytest.fixture
def files(tmp_path) -> Files:
    rng = np.random.default_rng(0)
    truth = {"categories": CATEGORIES, "images": [], "annotations": []}
    predictions = {"annotations": []}
    maps = []
    for place in range(5):
        image = {"id": place + 100, "file_name": f"{place:012d}.jpg", "height": 16, "width": 24}
        truth["images"].append(image)
        pair = []
        for side, document in (("truth", truth), ("predictions", predictions)):
            ids = np.zeros((16, 24), np.int64)
            ids[:, 2:12], ids[:, 12:22] = 70000 + place, 9
            ids[rng.integers(0, 6) :, 6:16] = 300
            segments = [
                {"id": 70000 + place, "category_id": 1, "iscrowd": 0, "area": 1},
                {"id": 9, "category_id": 2, "iscrowd": 0, "area": 1},
                {"id": 300, "category_id": 1, "iscrowd": 0, "area": 1},
            ]
            write_ids(tmp_path / side / f"{place:012d}.png", ids)
            document["annotations"].append(
                {"image_id": place + 100, "file_name": f"{place:012d}.png", "segments_info": segments}
            )
            pair += [ids, segments]
        maps.append(tuple(pair))
    made = Files(tmp_path, truth, predictions, maps)
    made.write()
    return made


def groups(result: dict) -> dict:
    return {name: result[name] for name in ("All", "Things", "Stuff")}


# -- numbers --


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


# -- faults of one image --


def annotation(files: Files) -> dict:
    return files.predictions["annotations"][FAULTY]


def set_ids(files: Files, value: np.ndarray) -> None:
    write_ids(files.png(FAULTY), value)


IMAGE_FAULTS: dict[str, tuple[Callable[[Files], object], tuple[str, ...]]] = {
    "missing prediction": (
        lambda f: f.predictions["annotations"].pop(FAULTY),
        ("predictions.json", "103", "000000000003.png", "--subset"),
    ),
    "missing PNG": (lambda f: f.png(FAULTY).unlink(), ("predictions/000000000003.png", "no such file")),
    "missing target PNG": (lambda f: f.png(FAULTY, "truth").unlink(), ("truth/000000000003.png", "no such file")),
    "truncated PNG": (
        lambda f: f.png(FAULTY).write_bytes(f.png(FAULTY).read_bytes()[:-20]),
        ("predictions/000000000003.png",),
    ),
    "no PNG": (lambda f: f.png(FAULTY).write_text("hello"), ("predictions/000000000003.png", "PNG")),
    "empty file": (lambda f: f.png(FAULTY).write_bytes(b""), ("predictions/000000000003.png", "PNG")),
    "folder for a PNG": (
        lambda f: (f.png(FAULTY).unlink(), f.png(FAULTY).mkdir()),
        ("predictions/000000000003.png", "cannot be read"),
    ),
    "other size": (
        lambda f: set_ids(f, np.zeros((8, 8), int)),
        ("predictions/000000000003.png", "8x8", "24x16"),
    ),
    "target of another size than its JSON": (
        lambda f: f.truth["images"][FAULTY].update(width=25),
        ("truth/000000000003.png", "24x16", "25x16"),
    ),
    "id not in JSON": (
        lambda f: annotation(f)["segments_info"].pop(0),
        ("predictions/000000000003.png", "predicted segment 70003", "not listed"),
    ),
    "id not in PNG": (
        lambda f: annotation(f)["segments_info"].append({"id": 4, "category_id": 1}),
        ("predictions/000000000003.png", "predicted segment 4", "no pixel"),
    ),
    "target id not in JSON": (
        lambda f: f.truth["annotations"][FAULTY]["segments_info"].pop(0),
        ("truth/000000000003.png", "target segment 70003", "not listed"),
    ),
    "duplicate id": (
        lambda f: annotation(f)["segments_info"].append(annotation(f)["segments_info"][0]),
        ("103", "segment 70003", "twice"),
    ),
    "unknown category": (
        lambda f: annotation(f)["segments_info"][0].update(category_id=77),
        ("103", "70003", "category_id 77"),
    ),
    "no id": (lambda f: annotation(f)["segments_info"][0].pop("id"), ("103", "None")),
    "path out of the folder": (
        lambda f: annotation(f).update(file_name="../truth/000000000003.png"),
        ("predictions.json", "103", "../truth/000000000003.png", "leaves the folder"),
    ),
    "absolute path": (lambda f: annotation(f).update(file_name="/etc/passwd"), ("predictions.json", "/etc/passwd")),
    "no file name": (lambda f: annotation(f).pop("file_name"), ("predictions.json", "103", "file_name")),
    "nameless byte": (lambda f: annotation(f).update(file_name="a\0b"), ("predictions.json", "103", "file_name")),
    "no segments_info": (lambda f: annotation(f).pop("segments_info"), ("predictions.json", "103", "segments_info")),
    "segments that are numbers": (
        lambda f: annotation(f).update(segments_info=[1, 2]),
        ("predictions.json", "103", "segments_info"),
    ),
    "two predictions": (
        lambda f: f.predictions["annotations"].append(annotation(f)),
        ("predictions.json", "103", "2 annotations"),
    ),
}


@pytest.mark.parametrize("name", IMAGE_FAULTS)
def test_a_fault_in_the_fourth_image_is_one_line_and_loses_nothing_of_the_three_before(files, capsys, name):
    breaking, words = IMAGE_FAULTS[name]
    breaking(files)
    files.write()
    assert files.run() == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and err.startswith("error: ") and "Traceback" not in err
    for word in words:
        assert word in err
    assert out.startswith("PARTIAL: 3 of 5 images")
    report = files.report()
    assert (report["partial"], report["images"], report["images_total"]) == (True, 3, 5)
    assert report["fault"] in err
    assert groups(report) == groups(files.expected(range(3)))


def test_a_fault_far_into_a_large_set_keeps_all_before_it_whatever_the_workers(files, capsys):
    """40 images over the same five PNGs, so that several tasks are in flight; the 39th is faulty."""
    for document in (files.truth, files.predictions):
        five = document["annotations"]
        document["annotations"] = [{**five[i % 5], "image_id": i} for i in range(40)]
    files.predictions["annotations"][38]["segments_info"] = []
    files.truth["images"] = []
    files.write()
    assert files.run("--workers", "2") == 2
    out, err = capsys.readouterr()
    assert "PARTIAL: 38 of 40 images" in out and "image id 38" in err and err.count("\n") == 1
    in_parallel = files.report()
    assert files.run() == 2
    assert files.report() == in_parallel
    assert groups(in_parallel) == groups(files.expected([i % 5 for i in range(38)]))


# -- faults of the whole --


@pytest.mark.parametrize(
    ("breaking", "words"),
    [
        (lambda f: (f.root / "predictions.json").write_text("{not json"), ("predictions.json", "not JSON", "line 1")),
        (lambda f: (f.root / "truth.json").write_bytes(b"\xff\xfe\x00"), ("truth.json", "not JSON")),
        (lambda f: (f.root / "truth.json").unlink(), ("truth.json", "no such file")),
        (lambda f: (f.root / "predictions.json").write_text("[]"), ("predictions.json", "list")),
        (lambda f: (f.root / "predictions.json").write_text("{}"), ("predictions.json", "annotations")),
        (
            lambda f: (f.root / "predictions.json").write_text('{"annotations": [{"image_id": [1]}]}'),
            ("predictions.json", "annotations[0]"),
        ),
        (lambda f: (f.root / "predictions.json").write_text('{"annotations": [3]}'), ("annotations[0]",)),
        (
            lambda f: (f.root / "truth.json").write_text('{"annotations": [], "categories": [{"id": 1}]}'),
            ("truth.json", "lacks"),
        ),
        (
            lambda f: (f.root / "truth.json").write_text(json.dumps({"annotations": [], "categories": CATEGORIES})),
            ("truth.json", "no image"),
        ),
        (
            lambda f: (f.root / "truth.json").write_text(json.dumps({**f.truth, "categories": CATEGORIES * 2})),
            ("category", "twice"),
        ),
        (lambda f: (f.root / "predictions").rename(f.root / "elsewhere"), ("predictions", "--pred-folder")),
    ],
)
def test_a_faulty_json_or_folder_is_one_line(files, capsys, breaking, words):
    breaking(files)
    assert files.run() == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and out == ""
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--subset", "nowhere.txt"], ("nowhere.txt", "predicted")),
        (["--workers", "0"], ("workers", "0")),
        (["--workers", "two"], ("two",)),
        (["--crowd", "all"], ("official", "corrected")),
        (["--per-clas"], ("--per-clas",)),
        (["--frobnicate"], ("--frobnicate",)),
        (["--pred-folder", "/nowhere"], ("/nowhere", "--pred-folder")),
        (["--json", "/proc/version/x.json"], ("/proc/version",)),
    ],
)
def test_a_wrong_option_is_one_line(files, capsys, options, words):
    try:
        code = files.run(*options)
    except SystemExit as stop:
        code = stop.code
    err = capsys.readouterr().err
    assert code == 2 and err.count("\n") == 1
    for word in words:
        assert word in err


def test_a_subset_that_names_an_unknown_image_says_the_line(files, capsys, tmp_path):
    (tmp_path / "names.txt").write_text("100\nnowhere\n")
    assert files.run("--subset", str(tmp_path / "names.txt")) == 2
    assert "names.txt, line 2" in capsys.readouterr().err


def test_numbers_survive_a_report_that_cannot_be_written(files, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert files.run("--json", str(tmp_path / "file" / "out.json")) == 2
    out, err = capsys.readouterr()
    assert "All" in out and err.count("\n") == 1 and "out.json" in err


# -- as a process --


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


def test_real_folders_judged_against_themselves_are_perfect(shared_data, capsys, tmp_path):
    """Real annotations, crowd regions among them: read, paired and counted without a fault."""
    for name in ("nuclei", "coco_permissive"):
        annotations = str(shared_data / name / "panoptic_val.json")
        out = tmp_path / f"{name}.json"
        assert main(["--ground-truth", annotations, "--predictions", annotations, "--json", str(out)]) == 0
        report = json.loads(out.read_text())
        assert report["All"]["pq"] == 1 and report["images"] == report["images_total"] > 60
