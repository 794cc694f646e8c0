"""The command `python -m ldmseg_lib.evaluation`: every fault in one line, and nothing before it lost."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from tests.evaluation.coco_folders import CATEGORIES, FAULTY, Files, groups, write_ids


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
    "id beyond 64 bits": (
        lambda f: annotation(f)["segments_info"][0].update(id=1 << 70),
        ("103", f"segment {1 << 70} is out of range"),
    ),
    "negative id beyond 64 bits": (
        lambda f: f.truth["annotations"][FAULTY]["segments_info"][0].update(id=-(1 << 70)),
        ("103", f"segment {-(1 << 70)} is out of range"),
    ),
    "crowd that is no flag": (
        lambda f: f.truth["annotations"][FAULTY]["segments_info"][0].update(iscrowd="no"),
        ("103", "iscrowd is 'no'"),
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
